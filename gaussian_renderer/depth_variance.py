# SPDX-License-Identifier: Apache-2.0
"""HiFA's z-variance: how far the Gaussians that a ray meets are spread along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diff_gaussian_rasterization import GaussianRasterizer
from gaussian_renderer import Augmentation, raster_settings, shape_inputs

if TYPE_CHECKING:
    from arguments import PipelineParams
    from scene.cameras import RCamera
    from scene.gaussian_model import GaussianModel

OPAQUE = 0.5  # rays of at most this opacity do not count


def depth_variance(
    camera: RCamera, pc: GaussianModel, pipe: PipelineParams, augmentation: Augmentation, scales: Tensor
) -> Tensor:
    """Mean over the opaque pixels of sum_i w_i (z_i - zbar)^2 / sum_i w_i, [] in world units squared.

    w_i is the weight of Gaussian i in the pixel, z_i the depth of its centre, zbar their weighted mean. Source: HiFA,
    section 3.3, whose weights are samples along a ray. One more rasterization, whose three "colours" are z^0, z^1 and
    z^2: the same kernels on every device. z is measured from the world's origin, which changes no variance and keeps
    the difference of the squares exact. scales [N, 3] are those of the image. 0 where no pixel is opaque.
    """
    z = pc.get_xyz @ camera.world_view_transform[:3, 2]
    settings = raster_settings(camera, pipe, augmentation, 1.0)._replace(bg=torch.zeros_like(augmentation.background))
    moments = GaussianRasterizer(raster_settings=settings)(
        means3D=pc.get_xyz,
        means2D=torch.zeros_like(pc.get_xyz),
        opacities=pc.get_opacity,
        colors_precomp=torch.stack([torch.ones_like(z), z, z * z], dim=1),
        **shape_inputs(pc, pipe, scales, 1.0),
    )[0]
    is_opaque = moments[0].detach() > OPAQUE
    opacity, first, second = torch.where(is_opaque, moments, torch.ones_like(moments))
    variance = second / opacity - (first / opacity) ** 2  # 0 where not opaque
    return variance.sum() / is_opaque.sum().clamp(min=1)
