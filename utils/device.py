# SPDX-License-Identifier: Apache-2.0
"""Device names to devices; threads for small work."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from utils.wording import counted

DEVICE_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


MIN_PARALLEL_NUMEL = 1 << 20  # below that a second thread costs more than it saves


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """One thread of the CPU for elementwise work on few numbers: it takes a third of the time of two threads."""
    threads = torch.get_num_threads()
    if numbers >= MIN_PARALLEL_NUMEL or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def send(numbers: Sequence[float] | Sequence[int], device: torch.device) -> torch.Tensor:
    """A few numbers as a tensor on `device`, without a synchronization."""
    return torch.tensor(numbers).to(device, non_blocking=True)


def reason_without_gpu() -> str:
    """Why torch has no GPU here."""
    return "this torch was built without CUDA" if torch.version.cuda is None else "no usable GPU was found"


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
        reason = reason_without_gpu()
        raise ValueError(f"device {name!r} given, but {reason}; use --device cpu, or install a CUDA build of torch")
    if index >= count:
        gpus = counted(count, "GPU")
        raise ValueError(f"device {name!r} given, but this machine has {gpus}; use cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)
