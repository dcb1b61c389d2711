# SPDX-License-Identifier: Apache-2.0
"""The one place where a device name becomes a device."""

from __future__ import annotations

import re

import torch

DEVICE_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def resolve_device(name: str) -> torch.device:
    """The device called "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises ValueError for another name, or for a device that this machine or this torch does not have.
    """
    if not DEVICE_NAME.fullmatch(name):
        raise ValueError(f"device {name!r} given: expected auto, cpu, cuda or cuda:N")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        reason = "this torch was built without CUDA" if torch.version.cuda is None else "no usable GPU was found"
        raise ValueError(f"device {name!r} given, but {reason}; use --device cpu, or install a CUDA build of torch")
    if index >= count:
        raise ValueError(f"device {name!r} given, but this machine has {count} GPU(s); use cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)
