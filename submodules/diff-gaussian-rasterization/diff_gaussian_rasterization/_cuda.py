# SPDX-License-Identifier: Apache-2.0
"""The CUDA library behind csrc/cuda_abi.h: loading, buffers from torch's allocator, and the autograd function.

Nothing here waits for the device. How many (Gaussian, tile) pairs a call has is known on the device only; buffers are
cut for the count of earlier calls and some more, and a call that does not fit is rendered slower, not wrongly.
Letters: B views, N Gaussians, M spherical-harmonics coefficients, H W image.
"""

import ctypes
import logging
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from . import _abi

logger = logging.getLogger(__name__)

INSTALL = "make nvcc available and run pip install --force-reinstall --no-deps ./submodules/diff-gaussian-rasterization"

ABI = 3
MAX_VIEWS = 16
DEVICE_TYPE = "cuda"
FIRST_PAIRS_PER_GAUSSIAN, SPARE, FORGET = 4, 1.25, 0.99

_INT, _LONG, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class Batch(ctypes.Structure):
    """DgrBatch: B views of N Gaussians."""

    _fields_ = [("pair_capacity", _LONG), ("n_views", _INT), ("device", _INT), ("views", ctypes.POINTER(_abi.Scene))]


class BufferBytes(ctypes.Structure):
    """DgrBufferBytes."""

    _fields_ = [("state", _LONG), ("forward", _LONG), ("backward", _LONG)]


def load(path: Path) -> ctypes.CDLL:
    """The library with its argument types set. Raises ImportError for another ABI, OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    if library.dgr_cuda_abi() != ABI:
        raise ImportError(f"{path} has ABI {library.dgr_cuda_abi()}, this Python code needs {ABI}: install it again")
    batch = ctypes.POINTER(Batch)
    buffers = (_POINTER, _POINTER, _POINTER)  # state, scratch, stream
    library.dgr_cuda_archs.restype = library.dgr_cuda_last_error.restype = ctypes.c_char_p
    library.dgr_cuda_buffer_bytes.argtypes = [batch, ctypes.POINTER(BufferBytes)]
    library.dgr_cuda_forward.argtypes = [batch, ctypes.POINTER(_abi.Images), _POINTER, *buffers]
    library.dgr_cuda_backward.argtypes = [batch, ctypes.POINTER(_abi.Gradients), *buffers]
    library.dgr_cuda_mark_visible.argtypes = [_LONG, _POINTER, _POINTER, _POINTER, ctypes.c_int, _POINTER]
    return library


def _load_installed() -> tuple[ctypes.CDLL | None, str | None]:
    path = Path(__file__).with_name("_cuda_kernels.so")
    note = path.with_suffix(".txt")
    if not path.is_file():
        return None, note.read_text().strip() if note.is_file() else "the package was built without CUDA"
    try:
        return load(path), None
    except (ImportError, OSError) as error:
        return None, str(error)


LIBRARY, WHY_NOT = _load_installed()
_usable: dict[torch.device, bool] = {}
_pairs: dict[tuple[torch.device, int, bool], "PairCount"] = {}


def why_not(device: torch.device) -> str | None:
    """Why the kernels do not run on a CUDA device: no library, or no code for it; None where they do."""
    if LIBRARY is None:
        return WHY_NOT
    if LIBRARY.dgr_cuda_probe(device.index or 0) == 0:
        return None
    return f"{LIBRARY.dgr_cuda_last_error().decode()} (they were compiled for {' '.join(archs() or [])})"


def usable(device: torch.device) -> bool:
    """Whether the kernels render this device's tensors; for a CUDA device without kernels, a warning says why not."""
    if device.type != DEVICE_TYPE:
        return False
    if device not in _usable:
        reason = why_not(device)
        _usable[device] = reason is None
        if reason is not None:
            told = "the rasterizer's CUDA kernels do not run on %s: %s. The CPU renders instead. To change that: %s"
            logger.warning(told, device, reason, INSTALL)
    return _usable[device]


def archs() -> list[str] | None:
    """Compute capabilities that the library was compiled for, or None without a library (WHY_NOT says why)."""
    return None if LIBRARY is None else LIBRARY.dgr_cuda_archs().decode().split()


def _check(code: int) -> None:
    if code:
        assert LIBRARY is not None
        raise RuntimeError(f"rasterizer: {LIBRARY.dgr_cuda_last_error().decode()}")


def _stream(device: torch.device) -> int:
    """The caller's."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


class PairCount:
    """Capacity of the pair buffers of one use, from the counts that its earlier calls sent to pinned memory.

    Calls are of one use when they have one device and number of views, and all or none will have a backward pass: a
    viewer's large image does not enlarge the buffers of the training. The count may arrive late or never; it only
    decides about speed and memory, so nobody waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        # n_pairs, n_dropped
        self.arrived = torch.zeros(2, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
        self.recent = 0.0

    def capacity(self, n_splats: int) -> int:
        """Pairs to make room for when `n_splats` = B*N Gaussians are drawn."""
        self.recent = max(float(self.arrived[0]), FORGET * self.recent)
        wanted = int(SPARE * self.recent) if self.recent else FIRST_PAIRS_PER_GAUSSIAN * n_splats
        step = 1 << max(10, wanted.bit_length() - 4)  # few different sizes, so that the allocator's blocks are reused
        return min(max(-(-wanted // step) * step, n_splats), (1 << 31) - 1)


def _pair_count(device: torch.device, n_views: int, differentiable: bool) -> PairCount:
    """Of one use; made at its first call."""
    use = device, n_views, differentiable
    if use not in _pairs:
        _pairs[use] = PairCount(device)
    return _pairs[use]


def rasterize(settings: Any, counts: dict[str, Any], *arrays: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Up to MAX_VIEWS views in one launch of each kernel; see `Rasterize`."""
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arrays)
    return Rasterize.apply(settings, counts, differentiable, *arrays)


class Rasterize(torch.autograd.Function):
    """Forward and backward of the views in the tuple `settings`; `arrays` are those of _abi.INPUT_ARRAYS view by view.

    Returns colour, radii and depth_alpha view by view. `counts` receives device tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, settings: Any, counts: dict[str, Any], differentiable: bool, *arrays: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        assert LIBRARY is not None
        views = _abi.split(arrays)
        means, n_views = views[0]["means"], len(views)
        assert means is not None
        pairs, device = _pair_count(means.device, n_views, differentiable), means.device
        ctx.capacity, scenes = pairs.capacity(len(means) * n_views), _abi.scenes(settings, views)
        batch, size = Batch(ctx.capacity, n_views, device.index or 0, scenes), BufferBytes()
        _check(LIBRARY.dgr_cuda_buffer_bytes(ctypes.byref(batch), ctypes.byref(size)))
        outputs = [_abi.new_outputs(s, view) for s, view in zip(settings, views, strict=True)]
        state, scratch = (means.new_empty(b, dtype=torch.uint8) for b in (size.state, size.forward))
        buffers = (_abi.address(state), _abi.address(scratch), _stream(device))
        images, arrived = _abi.images(outputs), _abi.address(pairs.arrived)
        _check(LIBRARY.dgr_cuda_forward(ctypes.byref(batch), images, arrived, *buffers))
        n_pairs, n_dropped = state[:16].view(torch.int64)
        counts.update(n_dropped=n_dropped, n_pairs=n_pairs, state_bytes=size.state)
        ctx.state, ctx.backward_bytes = state, size.backward
        _abi.save(ctx, settings, views)
        ctx.mark_non_differentiable(*[radii for _, radii, _ in outputs])
        return tuple(x for view in outputs for x in view)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: torch.Tensor | None) -> tuple[Any, ...]:
        assert LIBRARY is not None
        scenes = _abi.scenes(ctx.settings, _abi.split(ctx.saved_tensors))
        structs, outgoing, _kept = _abi.gradients(ctx, incoming)
        device = ctx.state.device
        batch = Batch(ctx.capacity, len(scenes), device.index or 0, scenes)
        scratch = ctx.state.new_empty(ctx.backward_bytes)
        buffers = (_abi.address(ctx.state), _abi.address(scratch), _stream(device))
        _check(LIBRARY.dgr_cuda_backward(ctypes.byref(batch), structs, *buffers))
        return None, None, None, *outgoing


def mark_visible(positions: torch.Tensor, viewmatrix: torch.Tensor) -> torch.Tensor:
    """Bool mask [N] of the positions [N,3] in front of the near plane."""
    assert LIBRARY is not None
    visible = torch.empty(positions.shape[0], dtype=torch.bool, device=positions.device)
    arrays = map(_abi.address, (positions, viewmatrix, visible))
    device = positions.device
    _check(LIBRARY.dgr_cuda_mark_visible(len(positions), *arrays, device.index or 0, _stream(device)))
    return visible
