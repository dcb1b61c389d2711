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
    """Raises ImportError for an older version of the module, and for one of the forks that share its name.

    Forks return two or four tensors where this one returns three, which shows only deep in a run.
    """
    is_ours = getattr(module, "backend", None) is not None and module.backend().get("outputs") == 3
    settings = getattr(module, "GaussianRasterizationSettings", None)
    if is_ours and "antialiasing" in getattr(settings, "_fields", ()):
        return
    what = "an older version of this project's" if is_ours else "another fork under the same name"
    raise ImportError(
        f"{module.__name__} at {module.__file__} is {what}; "
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
    settings = raster_settings(viewpoint_camera, pipe, augmentation, scaling_modifier, pc.antialiased)
    screen_points = torch.zeros_like(pc.get_xyz, requires_grad=True)
    inputs, scales = rasterizer_inputs(viewpoint_camera, activate(pc), pipe, augmentation, scaling_modifier)
    image, radii, depth_transmittance = GaussianRasterizer(raster_settings=settings)(means2D=screen_points, **inputs)
    disparity, transmittance = maps_of(viewpoint_camera, depth_transmittance)
    return {
        "render": image,
        "depth": disparity,
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


def maps_of(camera: RCamera, depth_transmittance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised disparity and transmittance [1, H, W] from the rasterizer's third output."""
    depth, transmittance = depth_transmittance.chunk(2)
    focal = 1 / (2 * math.tan(camera.FoVx / 2))
    return normalised_disparity(depth, transmittance, focal), transmittance


def raster_settings(
    camera: RCamera,
    pipe: PipelineParams,
    augmentation: Augmentation,
    scaling_modifier: float = 1.0,
    antialiased: bool = False,
) -> GaussianRasterizationSettings:
    """One view as the rasterizer takes it; `antialiased` is the Gaussian model's."""
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
        antialiasing=antialiased,
    )
    return settings if pipe.rasterizer == "auto" else settings._replace(backend=pipe.rasterizer)


@dataclass(frozen=True)
class Activated:
    """The Gaussians as they are rendered, before augmentations: the same for all views of a step."""

    means: torch.Tensor  # [N, 3]
    opacities: torch.Tensor  # [N, 1]
    shs: torch.Tensor  # [N, K, 3]
    scales: torch.Tensor  # [N, 3]
    rotations: torch.Tensor  # [N, 4] of unit length
    raw_rotations: torch.Tensor  # [N, 4]


def activate(pc: GaussianModel) -> Activated:
    """The model's parameters through their activations."""
    opacity, scaling = pc.rendered_shape()
    return Activated(pc.get_xyz, opacity, pc.get_features, scaling, pc.get_rotation, pc.get_raw_rotation)


def rasterizer_inputs(
    camera: RCamera,
    gaussians: Activated,
    pipe: PipelineParams,
    augmentation: Augmentation,
    scaling_modifier: float = 1.0,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the rasterizer takes of the Gaussians for one view, by name, without means2D; scales [N, 3] as rendered."""
    scales = _noisy_scales(gaussians.scales, augmentation.scale_noise)
    inputs = {"means3D": gaussians.means, "opacities": gaussians.opacities}
    inputs |= _colour_inputs(camera, gaussians, pipe, augmentation)
    return inputs | shape_inputs(gaussians, pipe, scales, scaling_modifier), scales


def _noisy_scales(scales: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Scales [N, 3] with relative noise, not below 0."""
    if noise is None:
        return scales
    return (scales + noise * (NOISE_DEVIATION * scales / SCALE_NOISE_DIVISOR)).clamp(min=0)


def _colour_inputs(
    camera: RCamera, gaussians: Activated, pipe: PipelineParams, augmentation: Augmentation
) -> dict[str, torch.Tensor]:
    """Either SH coefficients for the rasterizer, or colours [N, 3] computed here (convert_SHs_python)."""
    shs = gaussians.shs
    if augmentation.shs_noise is not None:
        shs = shs + augmentation.shs_noise * (NOISE_DEVIATION * shs)
    if not pipe.convert_SHs_python:
        return {"shs": shs}
    directions = torch.nn.functional.normalize(gaussians.means - camera.camera_center)
    return {"colors_precomp": (eval_sh(augmentation.sh_degree, shs, directions) + 0.5).clamp(min=0)}


def shape_inputs(
    gaussians: Activated, pipe: PipelineParams, scales: torch.Tensor, scaling_modifier: float = 1.0
) -> dict[str, torch.Tensor]:
    """Either scales and rotations for the rasterizer, or covariances [N, 6] computed here (compute_cov3D_python)."""
    if pipe.compute_cov3D_python:
        return {"cov3D_precomp": build_covariance(scales * scaling_modifier, gaussians.raw_rotations)}
    return {"scales": scales, "rotations": gaussians.rotations}
