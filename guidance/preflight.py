# SPDX-License-Identifier: Apache-2.0
"""Whether a run fits into memory, asked before the weights are read: a refusal that says what would fit."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from arguments import GuidanceParams
from guidance.execution import Execution
from guidance.footprint import Footprint, footprint
from guidance.run_size import WASTE, RunSize
from utils.memory import free_bytes, in_gb

logger = logging.getLogger(__name__)

# What no shape tells: assumptions, to be measured on a GPU.
WORKSPACE_BYTES = 400 * 10**6


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
    for word, of_params, of_run in single_savings(params, run, device):
        saving, smaller = dataclasses.replace(params, **of_params), dataclasses.replace(run, **of_run)
        less = sum(needed(model, saving, smaller, device).values())
        if less < total:
            params, run, total = saving, smaller, less
            words.append(word)
        if total <= free:
            return f"set {', '.join(words)} for about {in_gb(total)}"
    least = f"{', '.join(words)} would bring it to {in_gb(total)}" if words else "every saving is in use"
    return f"{least}, so use a smaller image_w and image_h, fewer Gaussians or a larger device"


def single_savings(
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
