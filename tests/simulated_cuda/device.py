# SPDX-License-Identifier: Apache-2.0
"""`simulated_gpu()`: within it torch has a `cuda:0`, whose memory and waits it gives; outside nothing is changed.

It shows what a program does on a GPU other than in numbers and speed: which tensors are where, what waits, what is allocated, how
it reports a lack of memory. It cannot show streams, asynchronous errors, real kernels or time.
"""

from __future__ import annotations

import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
import torch.utils.flop_counter

from diff_gaussian_rasterization import _abi, _cuda
from tests.simulated_cuda.memory import DeviceMemory, SimulationError, place
from tests.simulated_cuda.modes import FunctionMode, OperatorMode, device_type

CAPABILITY = (8, 0)


class Generator(torch._C.Generator):
    """A generator of the host that says it is of the device it was made for."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return torch._C.Generator.__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        self._device = torch.device("cuda", 0) if device_type(device) == "cuda" else torch.device("cpu")

    @property
    def device(self) -> torch.device:
        return self._device


class Stream:
    """Everything is done at once."""

    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def wait_stream(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...
    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None: ...


class Event:
    """Host time."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.at_s = 0.0

    def record(self, *_: Any) -> None:
        self.at_s = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.at_s - self.at_s)

    def synchronize(self) -> None: ...
    def wait(self, *_: Any) -> None: ...


class NoCounting:
    """In the place of FlopCounterMode, which decomposes operators until they no longer show which device they are for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> NoCounting:
        return self

    def __exit__(self, *_: object) -> None: ...
    def get_total_flops(self) -> int:
        return 0


@contextmanager
def simulated_gpu(kernels: bool = True) -> Iterator[DeviceMemory]:
    """Gives the simulated device's memory. kernels: whether the rasterizer has CUDA kernels (run by the CPU shim)."""
    memory = DeviceMemory()
    with pytest.MonkeyPatch.context() as patch:
        _patch_torch(patch, memory)
        _patch_rasterizer(patch, memory, kernels)
        with FunctionMode(memory), OperatorMode(memory):
            yield memory


def _patch_torch(patch: pytest.MonkeyPatch, memory: DeviceMemory) -> None:
    def properties(device: Any = None) -> Any:
        return types.SimpleNamespace(name="Simulated GPU", total_memory=memory.capacity_bytes, major=8, minor=0,
                                     multi_processor_count=1)  # fmt: skip

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "Simulated GPU",
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": properties,
        "get_arch_list": lambda: ["sm_80"],
        "mem_get_info": lambda device=None: (memory.capacity_bytes - memory.live_bytes(), memory.capacity_bytes),
        "memory_allocated": lambda device=None: memory.live_bytes(),
        "max_memory_allocated": lambda device=None: memory.peak_bytes,
        "reset_peak_memory_stats": lambda device=None: memory.reset_peak(),
        "synchronize": lambda device=None: memory.wait("synchronize"),
        "empty_cache": lambda: None,
        "set_sync_debug_mode": lambda mode: None,
        "current_stream": lambda device=None: Stream(),
        "Stream": Stream,
        "Event": Event,
        "stream": lambda stream: stream,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
    }
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, answer)
    patch.setattr(torch.version, "cuda", "12.6")
    patch.setattr(torch.utils.flop_counter, "FlopCounterMode", NoCounting)
    patch.setattr(torch, "Generator", Generator)
    # Recomputed activations are compared by shape and dtype, not by the device that the operators see.
    checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
    patch.setitem(checks, "default", lambda x: {"shape": x.shape, "dtype": x.dtype})


def _patch_rasterizer(patch: pytest.MonkeyPatch, memory: DeviceMemory, kernels: bool) -> None:
    """Its CUDA path, with kernels executed by the shim on addresses of the device; or without kernels."""
    patch.setattr(_cuda, "_usable", {})
    if not kernels:
        patch.setattr(_cuda, "LIBRARY", None)
        patch.setattr(_cuda, "WHY_NOT", "nvcc was not found when the package was built")
        return
    patch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "cuda_shim"))
    import shim_build

    patch.setattr(_cuda, "_pairs", {})
    patch.setattr(_cuda, "LIBRARY", shim_build.steer(_cuda.load(shim_build.compiled(shim_build.RASTERIZER))))

    def address(x: torch.Tensor | None) -> int | None:
        if x is None:
            return None
        if x.numel() and not (memory.holds(x) or memory.is_pinned(x)):
            raise SimulationError(f"a kernel is given memory of the host: {tuple(x.shape)} {x.dtype}, at {place()}")
        if not x.is_contiguous():
            raise SimulationError(f"a kernel is given a tensor that is not contiguous: {tuple(x.shape)}, at {place()}")
        return x.data_ptr()

    patch.setattr(_cuda, "_abi", _with_another(address))


def _with_another(address: Any) -> types.SimpleNamespace:
    """The names of _abi, whose functions call `address` in the place of their own. The CPU backend keeps the module."""
    names = dict(vars(_abi))
    for name, value in vars(_abi).items():
        if isinstance(value, types.FunctionType):
            names[name] = types.FunctionType(value.__code__, names, name, value.__defaults__)
    names["address"] = address
    return types.SimpleNamespace(**{name: value for name, value in names.items() if not name.startswith("__")})
