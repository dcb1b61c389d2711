# SPDX-License-Identifier: Apache-2.0
"""How many fronts an object has: each azimuth's image is assigned to the true view that it resembles most.

benchmarks/results/yardstick.md holds the calibration on scenes of known truth. Letters: A azimuths of the object,
T azimuths of the truth, H W image.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from toy.captions import Spec
from toy.raycast import View
from toy.truth import Renderer, renderer_of_truth

ELEVATION_DEG = 15.0
SIDE_PX = 64
STEP_DEG = 5
TRUTH_STEP_DEG = 10
BLURS = (0.0, 0.008, 0.016, 0.024, 0.032, 0.04)
"""Std of the blur of the true views, as shares of the image side: an object is compared at its own sharpness."""

FRONT_DEG = 45.0
"""A true view this near to azimuth 0 counts as a front in front_share: a quarter of a right object's azimuths."""

CENTRE_DEG = 22.5
"""A true view this near to azimuth 0 is the middle of a front; fronts are counted by their middles."""

GAP_DEG = 15
"""Middles of fronts that are this near to each other are one."""

CLEAN_SHARE = (0.10, 0.375)
"""Bounds of the front_share of a clean object; a right one has 0.25, two clear fronts have 0.5."""


@dataclass(frozen=True)
class Scan:
    """`error` [A, T]: mean squared error of the object at azimuth 360 a / A against the truth at TRUTH_STEP_DEG t,
    the truth blurred by `blur` (a share of the image side)."""

    error: np.ndarray
    blur: float

    @property
    def assigned_deg(self) -> np.ndarray:
        """The truth's azimuth, in (-180, 180], that each of the object's azimuths resembles most, [A]."""
        azimuth = self.error.argmin(axis=1) * TRUTH_STEP_DEG
        return np.where(azimuth > 180, azimuth - 360, azimuth)


@dataclass(frozen=True)
class Fronts:
    """share: of azimuths that resemble a true front; count: of separate fronts; clean: one front, as it should be."""

    share: float
    count: int

    @property
    def clean(self) -> bool:
        return self.count == 1 and CLEAN_SHARE[0] <= self.share <= CLEAN_SHARE[1]


def scan_views(step_deg: int, radius: float, fov_rad: float) -> list[View]:
    """The views of a full turn at ELEVATION_DEG."""
    return [View(90.0 - ELEVATION_DEG, float(azimuth), radius, fov_rad) for azimuth in range(0, 360, step_deg)]


def scan(render: Renderer, spec: Spec, radius: float, fov_rad: float, step_deg: int = STEP_DEG) -> Scan:
    """Compares a full turn of the object with a full turn of the truth, at the blur of the truth that fits best."""
    images = render(scan_views(step_deg, radius, fov_rad), SIDE_PX)[0]
    truth = renderer_of_truth(spec)(scan_views(TRUTH_STEP_DEG, radius, fov_rad), SIDE_PX)[0]
    errors = {share: _errors(images, blurred(truth, share)) for share in BLURS}
    best = min(BLURS, key=lambda share: float(errors[share].min(axis=1).mean()))
    return Scan(errors[best], best)


def fronts_of(assigned_deg: np.ndarray) -> Fronts:
    """From Scan.assigned_deg [A], which goes once around."""
    distance = np.abs(assigned_deg)
    middle = _closed(distance <= CENTRE_DEG, GAP_DEG * len(assigned_deg) // 360)
    begins = int((middle & ~np.roll(middle, 1)).sum())
    count = begins if begins else int(middle.any())  # a front all round has no beginning
    return Fronts(share=float((distance <= FRONT_DEG).mean()), count=count)


def blurred(images: np.ndarray, share: float) -> np.ndarray:
    """Images [V, C, H, W], each blurred by a Gaussian of std `share` of its side."""
    if share == 0:
        return images
    std_px = share * images.shape[-1]
    planes = images.reshape(-1, *images.shape[-2:])
    return np.stack(
        [cv2.GaussianBlur(plane, (0, 0), std_px, borderType=cv2.BORDER_REPLICATE) for plane in planes]
    ).reshape(images.shape)


def _errors(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean squared errors [A, T] of images [A, 3, H, W] and [T, 3, H, W]."""
    x, y = (pixels.reshape(len(pixels), -1).astype(np.float64) for pixels in (images, truth))
    return ((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T).clip(min=0) / x.shape[1]


def _closed(marked: np.ndarray, gap: int) -> np.ndarray:
    """A circular mask [A] with gaps of at most `gap` entries filled."""
    before, after = np.zeros_like(marked), np.zeros_like(marked)
    result = marked.copy()
    for width in range(1, gap + 1):
        for start in range(1, width + 1):
            before, after = np.roll(marked, start), np.roll(marked, start - width - 1)
            result |= before & after
    return result
