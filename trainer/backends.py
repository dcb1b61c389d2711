# SPDX-License-Identifier: Apache-2.0
"""Whether a run renders with the CUDA kernels or on the CPU: checked before it starts, and what run.json says of it."""

from typing import Any

import torch

import diff_gaussian_rasterization

INSTALL = "pip install --force-reinstall --no-deps --no-build-isolation ./submodules/diff-gaussian-rasterization"


def check_rasterizer(rasterizer: str, device: torch.device) -> None:
    """Warns of a GPU without CUDA kernels; with PipelineParams.rasterizer cuda, raises ValueError instead."""
    if rasterizer == "cuda" and (reason := _why_no_cuda(device)) is not None:
        remedy = f"make nvcc available and run {INSTALL}" if device.type == "cuda" else "use --device cuda"
        raise ValueError(
            f"PipelineParams.rasterizer is cuda, but the CUDA kernels do not run: {reason}; {remedy}, or set "
            "rasterizer: auto to render on the CPU"
        )
    if rasterizer == "auto" and device.type == "cuda":
        diff_gaussian_rasterization.uses_cuda(device)  # warns


def backends(rasterizer: str, device: torch.device) -> dict[str, dict[str, Any]]:
    """What renders on `device`, as run.json holds it."""
    built = diff_gaussian_rasterization.backend()
    reason = "PipelineParams.rasterizer is cpu" if rasterizer == "cpu" else _why_no_cuda(device)
    if reason is None:
        return {"rasterizer": {"backend": "cuda", "compiled_for": built["cuda"]}}
    return {"rasterizer": {"backend": "cpu", "why_not_cuda": reason, "cpu_level": built["cpu"]}}


def _why_no_cuda(device: torch.device) -> str | None:
    return f"the device is {device}" if device.type != "cuda" else diff_gaussian_rasterization.why_no_cuda(device)
