# SPDX-License-Identifier: Apache-2.0
"""Terms of the loss that turn a cloud of Gaussians into a surface: flat Gaussians, normals that fit the depth, no haze.

N Gaussians, H x W pixels. Normals are in the camera's axes (right, down, forward) and look at the camera.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diff_gaussian_rasterization import GaussianRasterizationSettings
from gaussian_renderer import Activated, shape_inputs
from utils.general_utils import build_rotation

if TYPE_CHECKING:
    from arguments import PipelineParams
    from scene.cameras import RCamera

OPAQUE = 0.5  # rays of at most this opacity have no normal


def normal_settings(settings: GaussianRasterizationSettings) -> GaussianRasterizationSettings:
    """An image's settings without a background, and with the gradient of depth with respect to a Gaussian's own z."""
    return settings._replace(bg=torch.zeros_like(settings.bg), depth_z_gradient=True)


def normal_inputs(camera: RCamera, gaussians: Activated, pipe: PipelineParams, scales: Tensor) -> dict[str, Tensor]:
    """What the rasterizer takes for an image of the Gaussians' normals; scales [N, 3] of the image.

    A Gaussian's normal is its shortest axis.
    """
    shortest = gaussians.scales.detach().argmin(dim=1)
    axis = build_rotation(gaussians.rotations)[torch.arange(len(shortest)), :, shortest]
    towards = ((camera.camera_center - gaussians.means.detach()) * axis.detach()).sum(dim=1, keepdim=True)
    normals = torch.where(towards < 0, -axis, axis) @ camera.world_view_transform[:3, :3]
    return {
        "means3D": gaussians.means,
        "opacities": gaussians.opacities,
        "colors_precomp": normals,
        **shape_inputs(gaussians, pipe, scales),
    }


def normals_of_depth(camera: RCamera, depth: Tensor) -> Tensor:
    """Unit normals [3, H - 2, W - 2] of the surface through the depths [H, W], by differences of neighbours."""
    height, width = depth.shape
    across, down = (
        (2 * torch.arange(count, device=depth.device) + 1 - count) / count * math.tan(fov / 2)
        for count, fov in ((width, camera.FoVx), (height, camera.FoVy))
    )
    points = torch.stack([across * depth, down[:, None] * depth, depth])
    right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    below = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    return torch.nn.functional.normalize(torch.linalg.cross(below, right, dim=0), dim=0)


def depth_normal_error(camera: RCamera, normals: Tensor, depth_transmittance: Tensor) -> Tensor:
    """Mean over the opaque pixels of 1 - n . n_d: n the image of normals [3, H, W] over its opacity, n_d the normal of
    the blended depth; [] in [0, 2], 0 where no pixel counts. Source: 2DGS, Eq. (14)."""
    depth, transmittance = depth_transmittance
    opacity = 1 - transmittance
    is_opaque = opacity.detach() > OPAQUE
    opacity = torch.where(is_opaque, opacity, 1.0)
    depth = torch.where(is_opaque, depth / opacity, 1.0)
    around = torch.nn.functional.max_pool2d((~is_opaque)[None].float(), 3, 1)[0] == 0
    agreement = (normals / opacity)[:, 1:-1, 1:-1] * normals_of_depth(camera, depth)
    return (around * (1 - agreement.sum(dim=0))).sum() / around.sum().clamp(min=1)


def translucency(transmittance: Tensor) -> Tensor:
    """Mean of T (1 - T) over the pixels of a transmittance [1, H, W]; 0 where each is opaque or empty."""
    return (transmittance * (1 - transmittance)).mean()
