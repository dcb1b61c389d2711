# SPDX-License-Identifier: Apache-2.0
"""Whether a run fits into memory, asked before the weights are read: a refusal that says what would fit."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from arguments import Config, GuidanceParams
from guidance.execution import Execution
from guidance.footprint import Footprint, footprint
from guidance.image_size import prior_size_px
from utils.memory import free_bytes, in_gb

logger = logging.getLogger(__name__)

# What no shape tells. Assumptions, to be measured on a GPU: how far densification multiplies the points, what the
# rasterizer keeps a Gaussian and view for its backward pass, the libraries' workspaces, what the allocator wastes.
GROWTH = 5
RASTER_BYTES = 400
PICTURE_COPIES = 4
WORKSPACE_BYTES = 400 * 10**6
WASTE = 1.1


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
        """Of a whole config; a run that densifies is taken to end with GROWTH times its initial points."""
        cameras, cograd, opt = config.cameras, config.cograd, config.optimization
        densifies = opt.densify_until_iter > opt.densify_from_iter
        stores = cograd.enabled and cograd.use_fusion and not cograd.bank_on_cpu
        return cls(
            views=-(-config.guidance.C_batch_size // (dist.get_world_size() if dist.is_initialized() else 1)),
            all_views=config.guidance.C_batch_size,
            size_px=(prior_size_px(cameras)[1], prior_size_px(cameras)[0]),
            gaussians=cameras.init_num_pts * (GROWTH if densifies else 1),
            sh_degree=config.model.sh_degree,
            regions=cograd.elevation_levels * cograd.azimuth_levels * cograd.distance_levels if stores else 0,
            bank_limit_bytes=cograd.bank_limit_mb * 10**6,
        )

    @property
    def gradient_bytes(self) -> int:
        """One gradient of all Gaussians: position, colours, opacity, scale and rotation in float32."""
        return self.gaussians * 4 * (3 + 3 * (self.sh_degree + 1) ** 2 + 1 + 3 + 4)

    @property
    def scene_bytes(self) -> int:
        """Gaussians with gradient, two moments and each view's gradient; what rendering keeps; the pictures."""
        pictures = self.views * self.size_px[0] * self.size_px[1] * 4 * 5 * PICTURE_COPIES
        return (4 + self.all_views) * self.gradient_bytes + self.gaussians * self.views * RASTER_BYTES + pictures

    @property
    def bank_bytes(self) -> int:
        """CoGrad's bank: a gradient for each region, up to its limit."""
        return min(self.regions * self.gradient_bytes, self.bank_limit_bytes)


def needed(model: Footprint, params: GuidanceParams, run: RunSize, device: torch.device) -> dict[str, int]:
    """Bytes by purpose at a run's worst moment: loading, a U-Net call, the autoencoder's backward pass, or a panel."""
    execution = Execution.of(params, device)
    samples = run.views * (4 if params.perpneg else 2)
    samples = min(samples, execution.unet_batch or samples)
    recomputed = execution.vae_checkpointing
    kept = model.encode_kept_recomputed if recomputed else model.encode_kept
    peak = model.encode_peak_recomputed if recomputed else model.encode_peak
    at_once, waiting = (1, 0) if execution.vae_slicing else (run.views, run.views * kept)
    unet = model.unet_layer if execution.offload_unet else model.unet
    text_later = model.text_encoder if params.keep_text_encoder else 0
    moments = {
        "the text encoder": model.text_encoder - text_later,
        "activations": max(waiting + samples * model.unet_sample, at_once * peak, at_once * model.decode),
    }
    worst = max(moments, key=lambda name: moments[name])
    parts = {
        "weights": unet + model.vae + model.controlnet + text_later,
        worst: moments[worst],
        "Gaussians": run.scene_bytes,
        "CoGrad's bank": run.bank_bytes,
    }
    overhead = {"workspace": WORKSPACE_BYTES} if device.type == "cuda" else {}
    return {name: int(WASTE * count) for name, count in parts.items() if count} | overhead


def check_memory(
    folder: Path, params: GuidanceParams, run: RunSize, device: torch.device, free: int | None = None
) -> None:
    """Raise ValueError (memory_check warn: tell) when the run will not fit into `free` bytes, by default what is free.

    folder: the pipeline whose configs tell the networks' shapes.
    """
    free = free_bytes(device) if free is None else free
    if params.memory_check == "off" or free is None:
        return
    model = footprint(folder, Execution.of(params, device).dtype, run.size_px, bool(params.controlnet_model_key))
    parts = needed(model, params, run, device)
    if sum(parts.values()) <= free:
        return
    told = ", ".join(f"{name} {in_gb(count)}" for name, count in parts.items())
    sentence = (
        f"this run is estimated to need {in_gb(sum(parts.values()))} of {device}, which has {in_gb(free)} free "
        f"({told}); {_remedy(model, params, run, device, free)}"
    )
    if params.memory_check == "warn":
        logger.warning("%s", sentence)
        return
    raise ValueError(f"{sentence}, or GuidanceParams.memory_check: warn to try it as it is")


def _remedy(model: Footprint, params: GuidanceParams, run: RunSize, device: torch.device, free: int) -> str:
    """What to set: of the ways to save memory, cheap ones first, those that help, until the run fits."""
    total = sum(needed(model, params, run, device).values())
    words: list[str] = []
    for word, of_params, of_run in _savings(params, run, device):
        saving, smaller = dataclasses.replace(params, **of_params), dataclasses.replace(run, **of_run)
        less = sum(needed(model, saving, smaller, device).values())
        if less < total:
            params, run, total = saving, smaller, less
            words.append(word)
        if total <= free:
            return f"set {', '.join(words)} for about {in_gb(total)}"
    least = f"{', '.join(words)} would bring it to {in_gb(total)}" if words else "every saving is in use"
    return f"{least}, so use a smaller image_w and image_h, fewer Gaussians or a larger device"


def _savings(
    params: GuidanceParams, run: RunSize, device: torch.device
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(words, changes of the settings, of the run) of each saving; vram_O takes back what its keys say already."""
    low = {"vram_O": True, "vae_slicing": "auto", "vae_checkpointing": "auto", "unet_batch": 0}
    can_offload = device.type == "cuda" and not (params.compile_unet or params.cuda_graphs)
    return [
        ("vram_O: true", low, {}),
        ("bank_on_cpu: true", {}, {"regions": 0}),
        ("unet_batch: 1", {"unet_batch": 1}, {}),
        *([("offload_unet: true", {"offload_unet": True}, {})] if can_offload else []),
        ("C_batch_size: 1", {}, {"views": 1, "all_views": 1}),
    ]
