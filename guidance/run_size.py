# SPDX-License-Identifier: Apache-2.0
"""What a run takes of memory beside a diffusion model, and whether the machine has it: asked before any work."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.distributed as dist

from arguments import Config
from guidance.image_size import IDEAL_IMAGES, prior_size_px
from utils.memory import free_bytes, in_gb

logger = logging.getLogger(__name__)

# What no shape tells. Assumptions, to be measured on a GPU: how far densification multiplies the points, what the
# rasterizer keeps a Gaussian and view for its backward pass, what the allocator wastes.
GROWTH = 5
RASTER_BYTES = 400
PICTURE_COPIES = 4
WASTE = 1.1
IDEAL_COPIES = 5.6
"""Peak of making the ideal prior, over its images in float32: measured at 64, 128 and 256 px on a CPU."""
SAMPLED_BYTES = 9 * 8 * 2
"""Of a point while the initial points are sampled and written: position, normal, colour in float64, and a copy."""

WAYS_OUT = {
    "Gaussians": "fewer init_num_pts (or a smaller max_points or C_batch_size)",
    "initial points": "fewer init_num_pts",
    "rendered images": "a smaller image_w and image_h, SSAA or C_batch_size",
    "images of the ideal prior": "a smaller image_w and image_h",
    "test views": "a smaller view_px",
    "CoGrad's bank": "a smaller bank_limit_mb",
}


@dataclass(frozen=True)
class RunSize:
    """What of a run's settings decides its memory beside the diffusion model."""

    views: int  # that this process renders
    all_views: int
    size_px: tuple[int, int]  # (H, W) of what the prior sees
    gaussians: int  # once densified
    sh_degree: int
    regions: int  # whose gradients CoGrad stores on the device; 0: it stores none
    bank_limit_bytes: int

    @classmethod
    def of(cls, config: Config) -> RunSize:
        """Of a whole config; a run that densifies ends with GROWTH times its points, or max_points if that is less."""
        cameras, cograd, opt = config.cameras, config.cograd, config.optimization
        densifies = opt.densify_until_iter > opt.densify_from_iter
        stores = cograd.enabled and cograd.use_fusion and not cograd.bank_on_cpu
        width, height = prior_size_px(cameras)
        grown = max(min(cameras.init_num_pts * GROWTH, opt.max_points), cameras.init_num_pts)
        return cls(
            views=-(-config.guidance.C_batch_size // (dist.get_world_size() if dist.is_initialized() else 1)),
            all_views=config.guidance.C_batch_size,
            size_px=(height, width),
            gaussians=grown if densifies else cameras.init_num_pts,
            sh_degree=config.model.sh_degree,
            regions=cograd.elevation_levels * cograd.azimuth_levels * cograd.distance_levels if stores else 0,
            bank_limit_bytes=cograd.bank_limit_mb * 10**6,
        )

    @property
    def gradient_bytes(self) -> int:
        """One gradient of all Gaussians: position, colours, opacity, scale and rotation in float32."""
        return self.gaussians * 4 * (3 + 3 * (self.sh_degree + 1) ** 2 + 1 + 3 + 4)

    @property
    def gaussian_bytes(self) -> int:
        """Gaussians with gradient, two moments and each view's gradient; what rendering keeps of them."""
        return (4 + self.all_views) * self.gradient_bytes + self.gaussians * self.views * RASTER_BYTES

    @property
    def image_bytes(self) -> int:
        """The images of a step: colour, disparity, transmittance."""
        return self.views * self.size_px[0] * self.size_px[1] * 4 * 5 * PICTURE_COPIES

    @property
    def scene_bytes(self) -> int:
        """Gaussians and images."""
        return self.gaussian_bytes + self.image_bytes

    @property
    def bank_bytes(self) -> int:
        """CoGrad's bank: a gradient for each region, up to its limit."""
        return min(self.regions * self.gradient_bytes, self.bank_limit_bytes)


def needed_without_model(config: Config, on_cpu: bool) -> dict[str, int]:
    """Bytes by purpose that a run takes of its device, a diffusion model aside."""
    run, cameras = RunSize.of(config), config.cameras
    is_ideal = config.guidance.guidance == "ideal"
    view = (cameras.view_px or cameras.image_w) * (cameras.view_px or cameras.image_h)
    parts = {
        "Gaussians": run.gaussian_bytes,
        "initial points": cameras.init_num_pts * SAMPLED_BYTES if on_cpu else 0,
        "rendered images": run.image_bytes,
        "images of the ideal prior": int(IDEAL_COPIES * IDEAL_IMAGES * 12 * run.size_px[0] ** 2) if is_ideal else 0,
        "test views": view * 4 * 5 * PICTURE_COPIES,
        "CoGrad's bank": run.bank_bytes,
    }
    return {name: int(WASTE * count) for name, count in parts.items() if count}


def check_run_memory(config: Config, device: torch.device, free: int | None = None) -> None:
    """Raise ValueError (memory_check warn: report) when the run alone, without a diffusion model, will not fit.

    free: bytes, by default what is free on the device.
    """
    free = free_bytes(device) if free is None else free
    if config.guidance.memory_check == "off" or free is None:
        return
    parts = needed_without_model(config, device.type == "cpu")
    total = sum(parts.values())
    if total <= free:
        return
    told = ", ".join(f"{name} {in_gb(count)}" for name, count in parts.items() if count * 100 > total)
    largest = max(parts, key=lambda name: parts[name])
    sentence = (
        f"this run is estimated to need {in_gb(total)} of {device}, which has {in_gb(free)} free ({told}); "
        f"use {WAYS_OUT[largest]}"
    )
    if config.guidance.memory_check == "warn":
        logger.warning("%s", sentence)
        return
    raise ValueError(f"{sentence}, or GuidanceParams.memory_check: warn to try it as it is")
