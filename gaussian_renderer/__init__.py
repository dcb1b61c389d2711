# SPDX-License-Identifier: Apache-2.0
"""render(): Gaussians and a camera to an image, a disparity map and a transmittance map.

N Gaussians, K SH coefficients a channel, H x W pixels. render() rolls no dice: draw_augmentation() draws what
upstream's render() draws, in its order. Two of upstream's names mislead: the output "alpha" is the final TRANSMITTANCE
(1 where nothing was hit), and "depth" is a normalised DISPARITY in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import diff_gaussian_rasterization
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer
from utils.general_utils import build_covariance
from utils.random_streams import RandomStreams
from utils.sh_utils import eval_sh

if TYPE_CHECKING:
    from arguments import PipelineParams
    from scene.cameras import RCamera
    from scene.gaussian_model import GaussianModel


def check_rasterizer(module: Any) -> None:
    """Raises ImportError when the module that was imported is one of the forks that share its name.

    They return two or four tensors where this one returns three, which shows only deep in a run.
    """
    if getattr(module, "backend", None) is None or module.backend().get("outputs") != 3:
        raise ImportError(
            f"{module.__name__} at {module.__file__} is another fork under the same name; "
            "install this project's with: pip install --force-reinstall ./submodules/diff-gaussian-rasterization"
        )


check_rasterizer(diff_gaussian_rasterization)

NOISE_DEVIATION = 0.2**0.5
SCALE_NOISE_DIVISOR = 4
EMPTY_DEPTH = 10.0  # depth that a fully transparent pixel counts as
COVERED_TRANSMITTANCE = 0.1  # at most this: the pixel is taken as covered


@dataclass(frozen=True)
class Augmentation:
    """What is varied in one view. Noises are standard normal, relative to what they vary; None: no noise."""

    sh_degree: int
    background: torch.Tensor  # [3]
    shs_noise: torch.Tensor | None = None  # [N, K, 3]
    scale_noise: torch.Tensor | None = None  # [N, 3]


def draw_augmentation(
    streams: RandomStreams,
    gaussians: GaussianModel,
    bg_color: torch.Tensor,
    sh_deg_aug_ratio: float = 0.1,
    bg_aug_ratio: float = 0.3,
    shs_aug_ratio: float = 1.0,
    scale_aug_ratio: float = 1.0,
) -> Augmentation:
    """Draw one view's augmentation in upstream's order: SH degree, background, colour noise, scale noise."""
    roll = streams.python.random
    lower_degree = roll() < sh_deg_aug_ratio
    background = bg_color
    if roll() < bg_aug_ratio:
        background = streams.rand(3).to(bg_color.device) if roll() < 0.5 else torch.zeros_like(bg_color)
    coefficients = (gaussians.max_sh_degree + 1) ** 2
    n = len(gaussians.get_xyz)
    shs_noise = streams.randn(n, coefficients, 3) if roll() < shs_aug_ratio else None
    scale_noise = streams.randn(n, 3) if roll() < scale_aug_ratio else None
    return Augmentation(0 if lower_degree else gaussians.active_sh_degree, background, shs_noise, scale_noise)


def render(
    viewpoint_camera: RCamera,
    pc: GaussianModel,
    pipe: PipelineParams,
    bg_color: torch.Tensor,
    scaling_modifier: float = 1.0,
    augmentation: Augmentation | None = None,
) -> dict[str, torch.Tensor]:
    """Render one view. `bg_color` [3] counts where no augmentation is given.

    Returns, under upstream's keys: render [3, H, W]; depth [1, H, W] normalised disparity; alpha [1, H, W]
    transmittance; viewspace_points [N, 3], whose .grad is the gradient with respect to NDC position;
    visibility_filter [N] bool; radii [N] px; scales [N, 3] as rendered.
    """
    augmentation = augmentation or Augmentation(pc.active_sh_degree, bg_color)
    settings = raster_settings(viewpoint_camera, pipe, augmentation, scaling_modifier)
    screen_points = torch.zeros_like(pc.get_xyz, requires_grad=True)
    scales = _noisy_scales(pc.get_scaling, augmentation.scale_noise)
    image, radii, depth_transmittance = GaussianRasterizer(raster_settings=settings)(
        means3D=pc.get_xyz,
        means2D=screen_points,
        opacities=pc.get_opacity,
        **_colour_inputs(viewpoint_camera, pc, pipe, augmentation),
        **shape_inputs(pc, pipe, scales, scaling_modifier),
    )
    depth, transmittance = depth_transmittance.chunk(2)
    focal = 1 / (2 * math.tan(viewpoint_camera.FoVx / 2))
    return {
        "render": image,
        "depth": normalised_disparity(depth, transmittance, focal),
        "alpha": transmittance,
        "viewspace_points": screen_points,
        "visibility_filter": radii > 0,
        "radii": radii,
        "scales": scales,
    }


def normalised_disparity(depth: torch.Tensor, transmittance: torch.Tensor, focal: float) -> torch.Tensor:
    """Disparity stretched to [0, 1]: 0 at the farthest covered pixel, 1 at the nearest. Any shape, same out.

    Without a covered pixel the farthest of all counts. A constant map (nothing visible) gives 0; upstream: NaN.
    """
    disparity = focal / (depth + transmittance * EMPTY_DEPTH + 1e-5)
    covered = torch.where(transmittance <= COVERED_TRANSMITTANCE, disparity, torch.inf).amin()
    lowest = torch.where(torch.isinf(covered), disparity.amin(), covered)
    span = disparity.amax() - lowest
    return ((disparity - lowest) / torch.where(span > 0, span, 1.0)).clamp(0, 1)


def raster_settings(
    camera: RCamera, pipe: PipelineParams, augmentation: Augmentation, scaling_modifier: float
) -> GaussianRasterizationSettings:
    """What the rasterizer needs to know of a view."""
    settings = GaussianRasterizationSettings(
        image_height=int(camera.image_height),
        image_width=int(camera.image_width),
        tanfovx=math.tan(camera.FoVx / 2),
        tanfovy=math.tan(camera.FoVy / 2),
        bg=augmentation.background,
        scale_modifier=scaling_modifier,
        viewmatrix=camera.world_view_transform,
        projmatrix=camera.full_proj_transform,
        sh_degree=augmentation.sh_degree,
        campos=camera.camera_center,
        prefiltered=False,
        debug=pipe.debug,
    )
    return settings if pipe.rasterizer == "auto" else settings._replace(backend=pipe.rasterizer)


def _noisy_scales(scales: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Scales [N, 3] with relative noise, not below 0."""
    if noise is None:
        return scales
    return (scales + noise * (NOISE_DEVIATION * scales / SCALE_NOISE_DIVISOR)).clamp(min=0)


def _colour_inputs(
    camera: RCamera, pc: GaussianModel, pipe: PipelineParams, augmentation: Augmentation
) -> dict[str, torch.Tensor]:
    """Either SH coefficients for the rasterizer, or colours [N, 3] computed here (convert_SHs_python)."""
    shs = pc.get_features
    if augmentation.shs_noise is not None:
        shs = shs + augmentation.shs_noise * (NOISE_DEVIATION * shs)
    if not pipe.convert_SHs_python:
        return {"shs": shs}
    directions = torch.nn.functional.normalize(pc.get_xyz - camera.camera_center)
    return {"colors_precomp": (eval_sh(augmentation.sh_degree, shs, directions) + 0.5).clamp(min=0)}


def shape_inputs(
    pc: GaussianModel, pipe: PipelineParams, scales: torch.Tensor, scaling_modifier: float
) -> dict[str, torch.Tensor]:
    """Either scales and rotations for the rasterizer, or covariances [N, 6] computed here (compute_cov3D_python)."""
    if pipe.compute_cov3D_python:
        return {"cov3D_precomp": build_covariance(scales * scaling_modifier, pc.get_raw_rotation)}
    return {"scales": scales, "rotations": pc.get_rotation}
