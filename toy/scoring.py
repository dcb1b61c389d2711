# SPDX-License-Identifier: Apache-2.0
"""Scores an object against the toy world's ground truth.

24 views: 8 azimuths x elevations 0, 20, 40 degrees, white background, in the order of SCORED_VIEWS. The headline is
aligned: the views are turned by the yaw at which the object fits the truth best (toy/alignment.py).

- yaw_deg: that yaw. An object of yaw y shows its front at azimuth y.
- psnr (dB, at most MAX_PSNR), ssim, iou of the silhouettes (coverage > 0.5), detail (high-pass normalised
  cross-correlation inside the true silhouette): means over the aligned views. The first three reward blur.
- psnr_unaligned, detail_unaligned: of the views as they are, for objects whose view words fix the front.
- front_share, fronts, clean: wrong fronts (toy/fronts.py): share of azimuths that resemble a true front
  (right: 0.25), number of separate fronts, and whether both are those of a right object. None where the front of the
  object does not differ from its back.
"""

from typing import Any

import numpy as np

from toy.alignment import best_yaw, rotated_views
from toy.captions import Spec
from toy.fronts import fronts_of, scan
from toy.objects import ONE_SIDED
from toy.raycast import View
from toy.similarity import high_pass, iou, masked_ncc, psnr, ssim
from toy.truth import Images, Renderer, renderer_of_truth

AZIMUTHS_DEG: tuple[int, ...] = tuple(range(0, 360, 45))
ELEVATIONS_DEG: tuple[int, ...] = (0, 20, 40)
SCORED_VIEWS: tuple[tuple[int, int], ...] = tuple((e, a) for e in ELEVATIONS_DEG for a in AZIMUTHS_DEG)
"""(elevation, azimuth) of each scored view, in degrees."""

MAX_PSNR = 40.0
"""dB. Beyond it PSNR measures the truth's own anti-aliasing: 3 x 3 rays a pixel are 40 to 44 dB from 8 x 8."""

ALIGNMENT_PX = 64
"""Side of the images in which the yaw is searched."""


def scored_views(radius: float, fov_rad: float) -> list[View]:
    """The 24 camera poses."""
    return [View(90.0 - elevation, float(azimuth), radius, fov_rad) for elevation, azimuth in SCORED_VIEWS]


def score_object(render: Renderer, spec: Spec, radius: float, fov_rad: float, size_px: int) -> dict[str, Any]:
    """All scores of what `render` shows, seen from `radius` with `fov_rad`, in images of size_px."""
    views = scored_views(radius, fov_rad)
    turn = scan(render, spec, radius, fov_rad)
    yaw_deg = best_yaw(render, spec, turn, views, min(size_px, ALIGNMENT_PX))
    truth = renderer_of_truth(spec)(views, size_px)
    aligned = _means(render(rotated_views(views, yaw_deg), size_px), truth)
    unaligned = _means(render(views, size_px), truth)
    found = fronts_of(turn.assigned_deg) if spec.class_name in ONE_SIDED else None
    return {
        **aligned,
        "yaw_deg": yaw_deg,
        "psnr_unaligned": unaligned["psnr"],
        "detail_unaligned": unaligned["detail"],
        "front_share": None if found is None else found.share,
        "fronts": None if found is None else found.count,
        "clean": None if found is None else found.clean,
        "assigned_deg": turn.assigned_deg.tolist(),
    }


def _means(seen: Images, truth: Images) -> dict[str, float]:
    """psnr, ssim, iou and detail, means over the views."""
    rows = [
        (
            min(psnr(image, true_image), MAX_PSNR),
            ssim(image, true_image),
            iou(coverage, true_coverage),
            masked_ncc(high_pass(image), high_pass(true_image), true_coverage > 0.5),
        )
        for image, coverage, true_image, true_coverage in zip(*seen, *truth)
    ]
    return dict(zip(("psnr", "ssim", "iou", "detail"), (float(mean) for mean in np.mean(rows, axis=0))))
