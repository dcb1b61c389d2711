# SPDX-License-Identifier: Apache-2.0
"""Exceptions caused by the machine: too little memory, a device that failed."""

import errno
from dataclasses import dataclass

import torch

NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed", "bad_alloc")
DEVICE_FAILED = ("cuda error", "cublas_status", "cudnn_status", "cudnn error", "cuda driver", "device-side assert")
MAX_DETAIL = 200


@dataclass(frozen=True)
class MachineFailure:
    """`of_memory`: out of memory; else the device can no longer be used by this process."""

    of_memory: bool
    detail: str

    def __str__(self) -> str:
        return f"{'out of memory' if self.of_memory else 'the device failed'} ({self.detail})"


def machine_failure(error: BaseException) -> MachineFailure | None:
    """The failure that an exception reports; None for an exception of another kind.

    torch has no class of its own for main memory and for many errors of CUDA's libraries: their text is searched.
    """
    text = str(error).casefold()
    of_torch = isinstance(error, RuntimeError) and type(error).__module__ in ("builtins", "torch")
    if (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (of_torch and any(words in text for words in NO_MEMORY))
    ):
        return MachineFailure(True, first_line(error))
    if isinstance(error, torch.AcceleratorError) or (of_torch and any(words in text for words in DEVICE_FAILED)):
        return MachineFailure(False, first_line(error))
    return None


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, its class where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= MAX_DETAIL else f"{lines[0][:MAX_DETAIL]}..."
