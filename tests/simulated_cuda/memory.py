# SPDX-License-Identifier: Apache-2.0
"""The memory of the simulated device: which storages live there, how many bytes they are, and what does not fit.

All numbers are in main memory; a storage is of the device when it is tagged.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
from torch.multiprocessing.reductions import StorageWeakRef

ROOT = str(Path(__file__).resolve().parents[2])
HERE = str(Path(__file__).resolve().parent)
DEFAULT_CAPACITY_BYTES = 40 * 10**9


class SimulationError(RuntimeError):
    """What torch would refuse, or what this project promises not to do on a GPU."""


def place() -> str:
    """File and line of this project, outside the simulation, that is being executed; of any library where there is none."""
    frame: FrameType | None = sys._getframe(1)
    other = "unknown"
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(ROOT) and not path.startswith(HERE) and "site-packages" not in path:
            return f"{path.removeprefix(ROOT + '/')}:{frame.f_lineno}"
        if other == "unknown" and not path.startswith(HERE) and "/torch/" not in path:
            other = f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    return other


class DeviceMemory:
    """Tags of storages, live and peak bytes, and what the host waited for.

    waits, host_indices: how often, by place. allocated: bytes by place, while `by_place` is true.
    """

    def __init__(self) -> None:
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._pinned: dict[int, StorageWeakRef] = {}
        self._bytes = self.peak_bytes = self.allocations = 0
        self.capacity_bytes = DEFAULT_CAPACITY_BYTES
        self.by_place = False
        self.waits: Counter[str] = Counter()
        self.host_indices: Counter[str] = Counter()
        self.allocated: Counter[str] = Counter()

    def holds(self, x: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        try:
            entry = self._live.get(x.untyped_storage()._cdata)
        except (RuntimeError, NotImplementedError):  # meta and wrapped tensors have no storage
            return False
        return entry is not None and not entry[0].expired()

    def take(self, x: torch.Tensor) -> None:
        """Puts a new tensor on the device. Raises torch.OutOfMemoryError where it does not fit."""
        storage = x.untyped_storage()
        if self.holds(x):
            return
        count = storage.nbytes()
        if self._bytes + count > min(self.peak_bytes, self.capacity_bytes):
            self._forget_freed()
        if self._bytes + count > self.capacity_bytes:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {count} bytes. GPU 0 has a total capacity of "
                f"{self.capacity_bytes} bytes of which {self.capacity_bytes - self._bytes} bytes are free."
            )
        self._live[storage._cdata] = (StorageWeakRef(storage), count)
        self._bytes += count
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        self.allocations += 1
        if self.by_place:
            self.allocated[place()] += count

    def release(self, x: torch.Tensor) -> None:
        """A tensor is on the host after all."""
        entry = self._live.pop(x.untyped_storage()._cdata, None)
        self._bytes -= 0 if entry is None else entry[1]

    def pin(self, x: torch.Tensor) -> None:
        """Host memory that the device may read and write."""
        storage = x.untyped_storage()
        self._pinned[storage._cdata] = StorageWeakRef(storage)

    def is_pinned(self, x: torch.Tensor) -> bool:
        """Whether `pin` has been called for a tensor's memory."""
        ref = self._pinned.get(x.untyped_storage()._cdata)
        return ref is not None and not ref.expired()

    def live_bytes(self) -> int:
        """Bytes of all storages that are on the device now."""
        self._forget_freed()
        return self._bytes

    def reset_peak(self) -> None:
        """The peak is counted from here."""
        self.peak_bytes = self.live_bytes()

    def wait(self, what: str) -> None:
        """The host waits for the device here."""
        self.waits[f"{what} {place()}"] += 1

    def _forget_freed(self) -> None:
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self._bytes = sum(count for _, count in self._live.values())
