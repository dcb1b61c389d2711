# SPDX-License-Identifier: Apache-2.0
"""What to set when a run was out of memory after all: the settings that save most of it, by preflight's estimate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from arguments import Config
from utils.device import resolve_device
from utils.failures import MachineFailure
from utils.memory import in_gb

LEAST_BYTES = 10**6  # a smaller saving is not named
ALWAYS = "smaller image_w and image_h, or fewer init_num_pts"


def remedy_of(failure: MachineFailure, config: Config) -> str:
    """What to do about a failure of the machine."""
    if not failure.of_memory:
        return "set CUDA_LAUNCH_BLOCKING=1 to see which operation fails, should it fail again"
    try:
        savings = savings_of(config, resolve_device(config.device))
    except Exception:  # a remedy that cannot be estimated, for want of memory or of the model's configs
        savings = []
    told = [f"{setting} (saves about {in_gb(saved)})" for setting, saved in savings]
    return f"set {', '.join([*told, ALWAYS])}"


def savings_of(config: Config, device: torch.device) -> list[tuple[str, int]]:
    """(setting, estimated bytes that it alone saves) of those that save any, the largest first."""
    from guidance.execution import Execution  # imported late: diffusers takes seconds to import
    from guidance.footprint import Footprint, footprint
    from guidance.preflight import needed, single_savings
    from guidance.run_size import RunSize
    from guidance.sources import download, find_source

    params, run = config.guidance, RunSize.of(config)
    model = Footprint(*[0] * len(dataclasses.fields(Footprint)))
    if params.guidance == "SD":
        source = find_source(params)
        folder = source if isinstance(source, Path) else download(source, params.model_revision)
        if not folder.is_dir():
            folder = Path(params.base_model_key or "")
        dtype = Execution.of(params, device).dtype
        model = footprint(folder, dtype, run.size_px, bool(params.controlnet_model_key))
    total = sum(needed(model, params, run, device).values())
    saved = []
    for setting, of_params, of_run in single_savings(params, run, device):
        smaller, run_then = dataclasses.replace(params, **of_params), dataclasses.replace(run, **of_run)
        saved.append((setting, total - sum(needed(model, smaller, run_then, device).values())))
    return sorted((s for s in saved if s[1] >= LEAST_BYTES), key=lambda s: -s[1])
