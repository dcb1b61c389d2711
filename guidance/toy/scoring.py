# SPDX-License-Identifier: Apache-2.0
"""Scores pictures of a generated object against the toy world's ground truth.

24 views: 8 azimuths x elevations 0, 20, 40 degrees, white background, in the order of SCORED_VIEWS.

- psnr (dB), ssim (Gaussian window 11 px, sigma 1.5, mean over channels), iou of the silhouettes (coverage > 0.5):
  means over the views. All three reward blur, hence:
- detail: high-pass normalised cross-correlation (NCC) of each view with the true picture of the same view inside the
  true silhouette, mean over the views.
- face: for classes whose front differs from their back, the high-pass NCC with the true FRONT picture, by azimuth of
  the scored picture, inside the region where the front differs from the back; 1 for the true front, 0 for the back.
- janus_count: number of the 8 azimuths whose face correlation reaches JANUS_THRESHOLD. One is right (the front); the
  neighbours at 45 degrees see the face turned away and stay under the threshold.
- face_margin: face of the azimuth that shows it best, less the best of those 90 degrees and more from it; about .4 for
  one face, 0 for faces all round, however clear, and for none. It does not ask where the front is.
- turn_deg, psnr_turned, detail_turned: psnr and detail after the turn of the object by multiples of 45 degrees that
  has the highest psnr: a prior that leaves the azimuth open may make the right object, turned.

Letters: V = 24 views, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from guidance.toy.captions import Spec
from guidance.toy.compose import compose
from guidance.toy.objects import ONE_SIDED
from guidance.toy.raycast import View, render_gbuffers

AZIMUTHS_DEG: tuple[int, ...] = tuple(range(0, 360, 45))
ELEVATIONS_DEG: tuple[int, ...] = (0, 20, 40)
SCORED_VIEWS: tuple[tuple[int, int], ...] = tuple((e, a) for e in ELEVATIONS_DEG for a in AZIMUTHS_DEG)
"""(elevation, azimuth) of each scored picture, in degrees."""

JANUS_THRESHOLD = 0.5
BLUR_SHARE = 0.03
"""Std of the low-pass that is subtracted, as a share of the image side."""

SHIFT_SHARE = 0.015
"""How far a face may be out of place and still count, as a share of the image side."""


def scored_views(radius: float, fov_rad: float) -> list[View]:
    """The 24 camera poses."""
    return [View(90.0 - elevation, float(azimuth), radius, fov_rad) for elevation, azimuth in SCORED_VIEWS]


@lru_cache(maxsize=8)
def true_pictures(spec: Spec, radius: float, fov_rad: float, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [V, 3, H, W] on white and coverages [V, H, W] of the ground truth, float32 in [0, 1]."""
    gbuffers = render_gbuffers(spec.class_name, scored_views(radius, fov_rad), size_px, supersample=3)
    return compose(gbuffers, spec.rgb_a(), spec.rgb_b(), (1, 1, 1)), gbuffers[:, 5].astype(np.float32) / 255


def score_pictures(
    pictures: np.ndarray, coverages: np.ndarray, spec: Spec, radius: float, fov_rad: float
) -> dict[str, Any]:
    """All scores of pictures [V, 3, H, W] on white with coverages [V, H, W], in the order of SCORED_VIEWS."""
    expected = (len(SCORED_VIEWS), 3, pictures.shape[-1], pictures.shape[-1])
    if pictures.shape != expected:
        raise ValueError(f"Scoring takes square pictures of shape {expected}; got {tuple(pictures.shape)}.")
    truth, truth_coverage = true_pictures(spec, radius, fov_rad, pictures.shape[-1])
    views = range(len(truth))
    face = face_by_azimuth(pictures, truth, truth_coverage) if spec.class_name in ONE_SIDED else None
    details, true_details = [high_pass(picture) for picture in pictures], [high_pass(picture) for picture in truth]
    order = np.arange(len(truth)).reshape(len(ELEVATIONS_DEG), len(AZIMUTHS_DEG))
    turns = [np.roll(order, -k, axis=1).ravel() for k in range(len(AZIMUTHS_DEG))]
    by_turn = [float(np.mean([psnr(pictures[seen], truth[v]) for v, seen in enumerate(turn)])) for turn in turns]
    detail_by_turn = [
        float(np.mean([masked_ncc(details[turn[v]], true_details[v], truth_coverage[v] > 0.5) for v in views]))
        for turn in turns
    ]
    best = int(np.argmax(by_turn))
    return {
        "psnr": by_turn[0],
        "ssim": float(np.mean([ssim(pictures[v], truth[v]) for v in views])),
        "iou": float(np.mean([iou(coverages[v], truth_coverage[v]) for v in views])),
        "detail": detail_by_turn[0],
        "face": None if face is None else face[0],
        "face_by_azimuth": face,
        "janus_count": None if face is None else sum(value >= JANUS_THRESHOLD for value in face),
        "face_margin": None if face is None else face_margin(face),
        "turn_deg": AZIMUTHS_DEG[best],
        "psnr_turned": by_turn[best],
        "detail_turned": detail_by_turn[best],
        "psnr_by_view": [round(psnr(pictures[v], truth[v]), 3) for v in views],
    }


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; 100 for equal ones."""
    error = float(np.mean((picture.astype(np.float64) - truth) ** 2))
    return 100.0 if error < 1e-10 else -10 * float(np.log10(error))


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of [3, H, W] pictures in [0, 1], mean over pixels and channels."""
    x, y = (np.moveaxis(p.astype(np.float64), 0, -1) for p in (picture, truth))

    def window(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT_101)

    mu_x, mu_y = window(x), window(y)
    var_x, var_y, cov = window(x * x) - mu_x**2, window(y * y) - mu_y**2, window(x * y) - mu_x * mu_y
    c_1, c_2 = 0.01**2, 0.03**2
    quotient = ((2 * mu_x * mu_y + c_1) * (2 * cov + c_2)) / ((mu_x**2 + mu_y**2 + c_1) * (var_x + var_y + c_2))
    return float(quotient.mean())


def iou(coverage: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the silhouettes [H, W] (coverage > 0.5); 1 where both are empty."""
    a, b = coverage > 0.5, truth > 0.5
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def high_pass(picture: np.ndarray) -> np.ndarray:
    """The picture [3, H, W] minus its blurred version."""
    image = np.ascontiguousarray(np.moveaxis(picture, 0, -1), dtype=np.float32)
    blurred = cv2.GaussianBlur(image, (0, 0), max(BLUR_SHARE * image.shape[0], 0.5), borderType=cv2.BORDER_REPLICATE)
    return np.moveaxis(image - blurred, -1, 0)


def masked_ncc(picture: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Normalised cross-correlation in [-1, 1] of two [3, H, W] arrays inside region [H, W]; 0 where either is flat."""
    return _cosine(_centred(picture[:, region]), _centred(truth[:, region]))


def face_by_azimuth(pictures: np.ndarray, truth: np.ndarray, truth_coverage: np.ndarray) -> list[float]:
    """How much of the true front's own detail each azimuth shows, [8]; mean of elevations 0 and 20.

    The template is the front's high-pass detail without what the back shows too (hat brims, outlines), so the true
    front scores 1 and the true back 0. The picture may be shifted by SHIFT_SHARE of its side: the best value counts.
    """
    values = np.zeros((2, len(AZIMUTHS_DEG)))
    for row in range(2):
        first = row * len(AZIMUTHS_DEG)
        region = front_region(truth, truth_coverage, first)
        front, back = (high_pass(truth[first + k])[:, region] for k in (0, len(AZIMUTHS_DEG) // 2))
        template = _without(_centred(front), _centred(back))
        own = _cosine(_centred(front), template)
        for k in range(len(AZIMUTHS_DEG)):
            detail = high_pass(pictures[first + k])
            shifted = (np.roll(detail, shift, axis=(1, 2))[:, region] for shift in _shifts(detail.shape[-1]))
            values[row, k] = max(_cosine(_centred(pixels), template) for pixels in shifted) / own
    return [float(value) for value in values.mean(axis=0)]


def face_margin(face: Sequence[float]) -> float:
    """Of face_by_azimuth [8]: the largest value less the largest of those 90 degrees and more from it."""
    best = int(np.argmax(face))
    return face[best] - max(face[(best + k) % len(face)] for k in range(2, len(face) - 1))


def _shifts(side_px: int) -> list[tuple[int, int]]:
    reach = max(round(SHIFT_SHARE * side_px), 1)
    return [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]


def _centred(pixels: np.ndarray) -> np.ndarray:
    return pixels - pixels.mean(axis=1, keepdims=True)


def _without(pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`pixels` minus its projection on `other`."""
    return pixels - other * float((pixels * other).sum()) / max(float((other**2).sum()), 1e-9)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 1e-6 else 0.0


def front_region(truth: np.ndarray, truth_coverage: np.ndarray, first: int) -> np.ndarray:
    """bool [H, W]: pixels well inside the front's silhouette whose neighbourhood differs between front and back.

    `first` is the index of the front view; its back view is 180 degrees on.
    """
    back = first + len(AZIMUTHS_DEG) // 2
    side_px = truth.shape[-1]
    reach = 2 * max(round(0.012 * side_px), 1) + 1
    inside = cv2.erode((truth_coverage[first] > 0.99).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    difference = np.abs(high_pass(truth[first]) - high_pass(truth[back])).max(axis=0)
    spread = cv2.GaussianBlur(difference, (0, 0), max(BLUR_SHARE * side_px / 2, 0.5))
    return inside & (spread > 0.2 * spread[inside].max())
