# SPDX-License-Identifier: Apache-2.0
"""What makes CPU tensors behave as on two devices: a mode for torch's functions and one for its operators.

The function mode answers `.device`, `.to("cuda")`, `device=` and generators as CUDA does. The operator mode, which works below
autograd, tags results, refuses operands on different devices, and counts what makes the host wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.simulated_cuda.memory import DeviceMemory, SimulationError, place

T = torch.Tensor
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")

COPIES = ("aten::copy_", "aten::_to_copy", "aten::set_", "aten::_copy_from", "aten::_foreach_copy_")
ONE_DEVICE_FOR_SCALARS_TOO = ("aten::cat", "aten::stack")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::unique_dim",
           "aten::_unique2", "aten::bincount", "aten::repeat_interleave", "aten::is_nonzero")  # fmt: skip
MAKES_A_COPY = (torch.as_tensor, torch.asarray)
MADE_OF_OPERATORS = (torch.nn.functional.scaled_dot_product_attention,)
"""In C++, of operators that make tensors where the operands are: the causal mask."""


class _Target(threading.local):
    """The device, as text, on which new tensors are made whatever their operands; None: that of the operands."""

    device: str | None = None


_target = _Target()


@contextmanager
def made_on(device: str | None) -> Iterator[None]:
    """New tensors are on this device."""
    before, _target.device = _target.device, device
    try:
        yield
    finally:
        _target.device = before


def tensors_of(*values: Any) -> list[T]:
    """The tensors in nested values."""
    return [x for x in tree_flatten(values)[0] if isinstance(x, T)]


def _storage_key(x: T) -> int | None:
    return None if x.device.type == "meta" else x.untyped_storage()._cdata


class OperatorMode(TorchDispatchMode):
    """Where results are, and which operands may meet."""

    def __init__(self, memory: DeviceMemory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        operands = tensors_of(args, kwargs)
        on_gpu = [x for x in operands if self.memory.holds(x)]
        if on_gpu and name not in COPIES:
            self._check_one_device(name, args, operands)
        if on_gpu:
            self._count_waits(name, args, kwargs)
        out = func(*args, **kwargs)
        if name in COPIES and name != "aten::_to_copy" and _target.device is None:
            return out
        device = _target.device or ("cuda" if on_gpu else "cpu")
        before = {_storage_key(x) for x in operands}
        for x in tensors_of(out):
            if (key := _storage_key(x)) is not None and key not in before:
                self.memory.take(x) if device == "cuda" else self.memory.release(x)
        return out

    def _check_one_device(self, name: str, args: Any, operands: list[T]) -> None:
        """Raises SimulationError as torch would, and for host indices into a device tensor, which torch copies silently."""
        holds, scalars_too = self.memory.holds, name in ONE_DEVICE_FOR_SCALARS_TOO
        on_host = [x for x in operands if not holds(x) and x.device.type != "meta" and (x.dim() > 0 or scalars_too)]
        if name in INDEXING and holds(args[0]):
            indices = [x for x in args[1] if isinstance(x, T) and not holds(x)]
            if indices:
                self.memory.host_indices[place()] += 1
            on_host = [x for x in on_host if not any(x is index for index in indices)]
        if on_host:
            shapes = [tuple(x.shape) for x in on_host]
            raise SimulationError(f"expected all tensors on one device: {name} has {shapes} on the CPU, at {place()}")

    def _count_waits(self, name: str, args: Any, kwargs: Any) -> None:
        by_mask = name in INDEXING and any(isinstance(x, T) and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        if name in WAITING or by_mask:
            self.memory.wait(name.removeprefix("aten::") + (" by mask" if by_mask else ""))
        if name == "aten::copy_" and self.memory.holds(args[0]) != self.memory.holds(args[1]):
            non_blocking = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if not non_blocking:
                self.memory.wait("copy_")


class Move(torch.autograd.Function):
    """A copy to a device, whose gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, x: T, source: str, device: str, options: dict[str, Any]) -> T:
        ctx.source, ctx.dtype = source, x.dtype
        with made_on(device):
            return x.to("cpu", copy=True, **options)

    @staticmethod
    def backward(ctx: Any, gradient: T) -> Any:  # type: ignore[override]
        with made_on(ctx.source):
            return gradient.to("cpu", ctx.dtype, copy=True), None, None, None


def device_type(device: Any) -> str | None:
    """ "cuda", "cpu", "meta", or None."""
    if device is None:
        return None
    return "cuda" if isinstance(device, int) else torch.device(device).type


class FunctionMode(TorchFunctionMode):
    """torch's functions with two devices."""

    def __init__(self, memory: DeviceMemory) -> None:
        super().__init__()
        self.memory = memory
        self.handlers: dict[Any, Callable[..., Any]] = {
            T.device.__get__: self._device,  # type: ignore[attr-defined]
            T.is_cuda.__get__: lambda x: memory.holds(x),  # type: ignore[attr-defined]
            T.is_cpu.__get__: lambda x: x.device.type == "cpu" and not memory.holds(x),  # type: ignore[attr-defined]
            T.get_device: lambda x: 0 if memory.holds(x) else -1,
            T.numpy: self._numpy,
            T.__array__: self._numpy,
            T.tolist: self._tolist,
            T.pin_memory: self._pin_memory,
            T.is_pinned: lambda x, *_: memory.is_pinned(x),
            T.cpu: lambda x, *_, **__: self._moved(x, "cpu", False, {}),
            T.cuda: lambda x, *_, non_blocking=False, **__: self._moved(x, "cuda", non_blocking, {}),
            T.to: self._to,
            T.backward: self._backward,
            T.__deepcopy__: self._deepcopy,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if (handler := self.handlers.get(func)) is not None:
            return handler(*args, **kwargs)
        self._check_generator(func, args, kwargs)
        device = device_type(kwargs.get("device"))
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
            made = func(*args, **kwargs)
            self.memory.pin(made)
            return made
        if func in MADE_OF_OPERATORS and self.memory.holds(args[0]):
            with made_on("cuda"):
                return func(*args, **kwargs)
        if device not in ("cuda", "cpu"):
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        if func in MAKES_A_COPY and args and isinstance(args[0], T):
            return self._moved(func(*args, **kwargs), device, False, {})
        before = {_storage_key(x) for x in tensors_of(args, kwargs)}
        with made_on(device):
            made = func(*args, **kwargs)
        if device == "cuda":
            for x in tensors_of(made):
                if _storage_key(x) not in before:
                    self.memory.take(x)
            if func in (torch.tensor, *MAKES_A_COPY):  # numbers of the host, copied before the call returns
                self.memory.wait("copy to the device")
        return made

    def _device(self, x: T) -> torch.device:
        found = T.device.__get__(x)  # type: ignore[attr-defined]
        return GPU if found.type == "cpu" and self.memory.holds(x) else found

    def _numpy(self, x: T, *args: Any, **kwargs: Any) -> Any:
        if self.memory.holds(x):
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy, at {place()}")
        return x.numpy() if not args and not kwargs else x.__array__(*args, **kwargs)

    def _tolist(self, x: T) -> Any:
        if self.memory.holds(x):
            self.memory.wait("tolist")
            return self._host_copy(x).tolist()
        return x.tolist()

    def _host_copy(self, x: T) -> T:
        with made_on("cpu"):
            return x.detach().to("cpu", copy=True)

    def _pin_memory(self, x: T, *_: Any) -> T:
        if self.memory.holds(x):
            raise SimulationError(f"cannot pin a CUDA tensor, at {place()}")
        pinned = x.clone()
        self.memory.pin(pinned)
        return pinned

    def _moved(self, x: T, device: str, non_blocking: bool, options: dict[str, Any]) -> T:
        source = "cuda" if self.memory.holds(x) else "cpu"
        if source == device:
            return x.to(**options) if options else x
        if not (non_blocking and (device == "cuda" or self.memory.is_pinned(x))) and x.numel():
            self.memory.wait(f"to {device}")
        options.pop("copy", None)
        return Move.apply(x, source, device, options)

    def _to(self, x: T, *args: Any, **kwargs: Any) -> T:
        """`to` in all its spellings: to(dtype), to(device, dtype, non_blocking, copy), to(other)."""
        rest, device = list(args), kwargs.pop("device", None)
        other = kwargs.pop("other", rest.pop(0) if rest and isinstance(rest[0], T) else None)
        if other is not None:
            device = GPU if self.memory.holds(other) else T.device.__get__(other)  # type: ignore[attr-defined]
            kwargs.setdefault("dtype", other.dtype)
        elif rest and not isinstance(rest[0], torch.dtype | bool):
            device = rest.pop(0)
        options = {**dict(zip(("dtype", "non_blocking", "copy"), rest)), **kwargs}
        options = {name: value for name, value in options.items() if value is not None}
        wanted = device_type(device)
        if wanted is None or wanted == "meta":
            return x.to(*(["meta"] if wanted else []), **options) if options or wanted else x
        return self._moved(x, wanted, bool(options.pop("non_blocking", False)), options)

    def _backward(self, x: T, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None) -> None:
        with self:  # autograd functions in Python run with both modes, as they do from torch.autograd.backward
            torch.autograd.backward(x, gradient, retain_graph, create_graph, inputs=inputs)

    def _deepcopy(self, x: T, memo: Any) -> T:
        with made_on("cuda" if self.memory.holds(x) else "cpu"):
            copied = T.__deepcopy__(x, memo)
        if self.memory.holds(x):
            self.memory.take(copied)
        return copied

    def _check_generator(self, func: Any, args: Any, kwargs: Any) -> None:
        generator = kwargs.get("generator")
        if generator is None:
            return
        on_gpu = any(map(self.memory.holds, tensors_of(args, kwargs)))
        expected = device_type(kwargs.get("device")) or ("cuda" if on_gpu else "cpu")
        if generator.device.type != expected:
            raise SimulationError(f"expected a generator on {expected}, given one on {generator.device}, at {place()}: {func}")
