# SPDX-License-Identifier: Apache-2.0
"""Mip-Splatting's 3D smoothing filter: no Gaussian is finer than what the training cameras can resolve.

Yu et al., "Mip-Splatting: Alias-free 3D Gaussian Splatting", 2024. N Gaussians. Of the paper's two filters this
is the one in space; the one on the screen is the rasterizer's `antialiasing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from scene.dataset_readers import CameraRanges

if TYPE_CHECKING:
    from arguments import Config

VARIANCE_PX2 = 0.2  # s of the paper
NEAR = 0.2  # the rasterizer's near plane


@dataclass(frozen=True)
class Sampling:
    """The training cameras that resolve most: the longest focal length in pixels, and the least distance of a camera
    from the origin. Cameras stand in all directions, so that a Gaussian's nearest one is by its own distance nearer."""

    focal_px: float
    radius: float

    @classmethod
    def of_run(cls, config: Config) -> Self:
        """Over all of a run: from its first camera ranges to its last, without jitter."""
        opt, cameras = config.optimization, config.cameras
        ranges = [CameraRanges.from_params(cameras), CameraRanges.after_steps(opt.iterations, opt, cameras)]
        radius = min(one.radius[0] for one in ranges)
        narrowest = min(one.fovy_rad[0] for one in ranges)
        height_px = cameras.image_h * cameras.SSAA
        return cls(
            height_px / (2 * math.tan(narrowest / 2)),
            config.cograd.distance_range[0] if config.cograd.enabled else radius,
        )

    def deviation(self, xyz: Tensor) -> Tensor:
        """The filter's standard deviation at positions [N, 3] -> [N, 1]: sqrt(s) / nu, with nu = focal / depth."""
        depth = (self.radius - torch.linalg.vector_norm(xyz.detach(), dim=1, keepdim=True)).clamp(min=NEAR)
        return math.sqrt(VARIANCE_PX2) * depth / self.focal_px


def smoothed(opacity: Tensor, scaling: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma + s / nu^2 I in place of Sigma, opacity times the root of their
    determinants' ratio, so that opacity times volume stays.

    opacity [N, 1], scaling [N, 3] standard deviations, deviation [N, 1] -> the same, smoothed.
    """
    wider = torch.sqrt(scaling**2 + deviation**2)
    x, y, z = (scaling / wider).split(1, dim=1)
    return opacity * (x * y * z), wider  # the backward pass of prod() would wait for the device
