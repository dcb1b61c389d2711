# SPDX-License-Identifier: Apache-2.0
"""HiFA's z-variance: how far the Gaussians that a ray meets are spread along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diff_gaussian_rasterization import GaussianRasterizationSettings
from gaussian_renderer import Activated, shape_inputs

if TYPE_CHECKING:
    from arguments import PipelineParams
    from scene.cameras import RCamera

OPAQUE = 0.5  # rays of at most this opacity do not count


def moment_settings(settings: GaussianRasterizationSettings) -> GaussianRasterizationSettings:
    """An image's settings with a background that adds nothing to the moments."""
    return settings._replace(bg=torch.zeros_like(settings.bg))


def moment_inputs(camera: RCamera, gaussians: Activated, pipe: PipelineParams, scales: Tensor) -> dict[str, Tensor]:
    """What the rasterizer takes for an image of z^0, z^1 and z^2 in the place of colours; scales [N, 3] of the image.

    z is measured from the world's origin, which changes no variance and keeps the difference of the squares exact.
    """
    z = gaussians.means @ camera.world_view_transform[:3, 2]
    return {
        "means3D": gaussians.means,
        "opacities": gaussians.opacities,
        "colors_precomp": torch.stack([torch.ones_like(z), z, z * z], dim=1),
        **shape_inputs(gaussians, pipe, scales),
    }


def depth_variance(moments: Tensor) -> Tensor:
    """Mean over the opaque pixels of sum_i w_i (z_i - zbar)^2 / sum_i w_i, [] in world units squared, from the image of
    the moments [3, H, W].

    w_i is the weight of Gaussian i in the pixel, z_i the depth of its centre, zbar their weighted mean. Source: HiFA,
    section 3.3, whose weights are samples along a ray. One more rasterization, by the same kernels on every device.
    0 where no pixel is opaque.
    """
    is_opaque = moments[0].detach() > OPAQUE
    opacity, first, second = torch.where(is_opaque, moments, torch.ones_like(moments))
    variance = second / opacity - (first / opacity) ** 2  # 0 where not opaque
    return variance.sum() / is_opaque.sum().clamp(min=1)
