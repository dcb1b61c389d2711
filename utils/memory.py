# SPDX-License-Identifier: Apache-2.0
"""How much memory a device has left, and the most that this process has had of it."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

from utils.bounded_file import read_text

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
MAX_BYTES = 1 << 16


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are still available: of a GPU, or of main memory within the container's limit; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in read_text(MEMINFO, MAX_BYTES).splitlines() if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max", no limit, is no number
        used = int(read_text(CGROUP / "memory.current", MAX_BYTES)) - _reclaimable()
        limits.append(max(int(read_text(CGROUP / "memory.max", MAX_BYTES)) - used, 0))
    return min(limits, default=None)


def _reclaimable() -> int:
    """Bytes of files that were read and are kept in case, which the container's use counts."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = read_text(CGROUP / "memory.stat", MAX_BYTES).splitlines()
        return int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
    return 0


def peak_bytes(device: torch.device) -> dict[str, int]:
    """The most that this process has held so far: `main` memory and, on a GPU, what torch `gpu` tensors took."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"main": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_allocated(device)
    return peak


def peak_in_words(device: torch.device) -> str:
    """`peak_bytes` for a reader: "0.8 GB of main memory, 5.1 GB in tensors on cuda:0"."""
    peak = peak_bytes(device)
    on_gpu = f", {in_gb(peak['gpu'])} in tensors on {device}" if "gpu" in peak else ""
    return f"{in_gb(peak['main'])} of main memory{on_gpu}"


def in_gb(count: float) -> str:
    """Bytes in words: "1.4 GB" (10^9 bytes), small ones in MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
