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

ABI = 1
MAX_VIEWS = 16
DEVICE_TYPE = "cuda"
BATCH_ARRAYS = ("means", "shs", "colors", "opacities", "scales", "rotations", "cov3")
FIRST_PAIRS_PER_GAUSSIAN, SPARE, FORGET = 4, 1.25, 0.99

_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class View(ctypes.Structure):
    """DgrView: one camera."""

    _fields_ = [
        ("viewmatrix", _POINTER), ("projmatrix", _POINTER), ("campos", _POINTER), ("background", _POINTER),
        ("tan_fov_x", _FLOAT), ("tan_fov_y", _FLOAT), ("scale_modifier", _FLOAT), ("sh_degree", _INT),
    ]  # fmt: skip


class Batch(ctypes.Structure):
    """DgrBatch: B views of N Gaussians."""

    _fields_ = [
        ("n_gaussians", _LONG), ("pair_capacity", _LONG), ("n_views", _INT), ("n_sh_coeffs", _INT),
        ("width_px", _INT), ("height_px", _INT), ("flags", _INT), ("per_view", _INT),
        *[(name, _POINTER) for name in BATCH_ARRAYS], ("views", View * MAX_VIEWS),
    ]  # fmt: skip


class BufferBytes(ctypes.Structure):
    """DgrBufferBytes."""

    _fields_ = [("state", _LONG), ("forward", _LONG), ("backward", _LONG)]


class BatchImages(ctypes.Structure):
    """DgrBatchImages: where the forward pass writes."""

    _fields_ = [("color", _POINTER), ("radii", _POINTER), ("depth_alpha", _POINTER), ("host_counts", _POINTER)]


def load(path: Path) -> ctypes.CDLL:
    """The library with its argument types set. Raises ImportError for another ABI, OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    if library.dgr_cuda_abi() != ABI:
        raise ImportError(f"{path} has ABI {library.dgr_cuda_abi()}, this Python code needs {ABI}: install it again")
    batch = ctypes.POINTER(Batch)
    where: tuple[Any, ...] = (_POINTER, _POINTER, ctypes.c_int, _POINTER)  # state, scratch, device, stream
    library.dgr_cuda_archs.restype = library.dgr_cuda_last_error.restype = ctypes.c_char_p
    library.dgr_cuda_buffer_bytes.argtypes = [batch, ctypes.POINTER(BufferBytes)]
    library.dgr_cuda_forward.argtypes = [batch, ctypes.POINTER(BatchImages), *where]
    library.dgr_cuda_backward.argtypes = [batch, ctypes.POINTER(_abi.Gradients), *where]
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
_pairs: dict[torch.device, "PairCount"] = {}


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


def _where(device: torch.device) -> tuple[int, int]:
    """Device number and the caller's stream."""
    return device.index or 0, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


class PairCount:
    """Capacity of the pair buffers of one device, from the counts that earlier calls sent to pinned memory.

    The count may arrive late or never; it only decides about speed and memory, so nobody waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.arrived = torch.zeros(2, dtype=torch.int64, pin_memory=device.type == "cuda")  # n_pairs, n_dropped
        self.recent = 0.0

    def capacity(self, n_splats: int) -> int:
        """Pairs to make room for when `n_splats` = B*N Gaussians are drawn."""
        self.recent = max(float(self.arrived[0]), FORGET * self.recent)
        wanted = int(SPARE * self.recent) if self.recent else FIRST_PAIRS_PER_GAUSSIAN * n_splats
        step = 1 << max(10, wanted.bit_length() - 4)  # few different sizes, so that the allocator's blocks are reused
        return min(max(-(-wanted // step) * step, n_splats), (1 << 31) - 1)


def _batch(settings: tuple[Any, ...], arrays: dict[str, torch.Tensor | None], capacity: int) -> Batch:
    """The C struct."""
    means, shs, s = arrays["means"], arrays["shs"], settings[0]
    assert means is not None
    n = means.shape[-2]
    given = [(k, name, arrays[name]) for k, name in enumerate(BATCH_ARRAYS)]
    per_view = sum(1 << k for k, name, x in given if x is not None and not _abi.shared_by_views(name, x.shape, n))
    views = [
        View(*map(_abi.address, (v.viewmatrix, v.projmatrix, v.campos, v.bg)), v.tanfovx, v.tanfovy, v.scale_modifier,
             v.sh_degree)
        for v in settings
    ]  # fmt: skip
    flags = _abi.DEPTH_Z_GRADIENT if s.depth_z_gradient else 0
    return Batch(
        n, capacity, len(settings), 0 if shs is None else shs.shape[-2], s.image_width, s.image_height, flags,
        per_view, *[_abi.address(arrays[name]) for name in BATCH_ARRAYS], (View * MAX_VIEWS)(*views),
    )  # fmt: skip


class Rasterize(torch.autograd.Function):
    """Forward and backward of the views in the tuple `settings`; `lead` is () for one view, (B,) for a batch.

    Arrays are [N, ...] for all views or [B, N, ...]. Outputs are [*lead, ...]. `counts` receives device tensors.
    """

    @staticmethod
    def forward(ctx, means, means2d, shs, colors, opacities, scales, rotations, cov3, settings, lead, counts):
        assert LIBRARY is not None
        if len(settings) > MAX_VIEWS:
            raise ValueError(f"{len(settings)} views in one batch, expected at most {MAX_VIEWS}: split the batch")
        device, n, n_views = means.device, means.shape[-2], len(settings)
        h, w = settings[0].image_height, settings[0].image_width
        arrays = dict(zip(BATCH_ARRAYS, (means, shs, colors, opacities, scales, rotations, cov3)))
        pairs = _pairs[device] = _pairs.get(device) or PairCount(device)
        batch = _batch(settings, arrays, pairs.capacity(n * n_views))
        size = BufferBytes()
        _check(LIBRARY.dgr_cuda_buffer_bytes(ctypes.byref(batch), ctypes.byref(size)))
        color, depth_alpha = means.new_empty(*lead, 3, h, w), means.new_empty(*lead, 2, h, w)
        radii = means.new_empty(*lead, n, dtype=torch.int32)
        state, scratch = (means.new_empty(b, dtype=torch.uint8) for b in (size.state, size.forward))
        images = BatchImages(*map(_abi.address, (color, radii, depth_alpha, pairs.arrived)))
        where = (_abi.address(state), _abi.address(scratch), *_where(device))
        _check(LIBRARY.dgr_cuda_forward(ctypes.byref(batch), ctypes.byref(images), *where))
        n_pairs, n_dropped = state[:16].view(torch.int64)
        counts.update(n_dropped=n_dropped, n_pairs=n_pairs, state_bytes=size.state)
        ctx.settings, ctx.state, ctx.capacity, ctx.backward_bytes = settings, state, batch.pair_capacity, size.backward
        ctx.means2d_shape = means2d.shape
        ctx.save_for_backward(*arrays.values())
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(radii)
        return color, radii, depth_alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_color, _grad_radii, grad_depth_alpha):
        assert LIBRARY is not None
        arrays = dict(zip(BATCH_ARRAYS, ctx.saved_tensors))
        batch = _batch(ctx.settings, arrays, ctx.capacity)
        incoming = [None if g is None else g.contiguous() for g in (grad_color, grad_depth_alpha)]
        shapes = {name: array.shape for name, array in arrays.items() if array is not None}
        shapes["means2d"] = ctx.means2d_shape
        means, n_views = arrays["means"], len(ctx.settings)
        outgoing = {}
        for name, shape in shapes.items():  # every view's own gradient
            shared = _abi.shared_by_views(name, shape, means.shape[-2])
            outgoing[name] = means.new_empty(n_views, *shape) if shared else means.new_empty(shape)
        arrays_out = map(outgoing.get, _abi.GRADIENT_ARRAYS)
        gradients = _abi.Gradients(*map(_abi.address, (*incoming, *arrays_out)))
        scratch = means.new_empty(ctx.backward_bytes, dtype=torch.uint8)
        where = (_abi.address(ctx.state), _abi.address(scratch), *_where(means.device))
        _check(LIBRARY.dgr_cuda_backward(ctypes.byref(batch), ctypes.byref(gradients), *where))
        return *[_abi.as_input(outgoing.get(n), shapes.get(n)) for n in _abi.GRADIENT_ARRAYS], None, None, None


def mark_visible(positions: torch.Tensor, viewmatrix: torch.Tensor) -> torch.Tensor:
    """Bool mask [N] of the positions [N,3] in front of the near plane."""
    assert LIBRARY is not None
    visible = torch.empty(positions.shape[0], dtype=torch.bool, device=positions.device)
    arrays = map(_abi.address, (positions, viewmatrix, visible))
    _check(LIBRARY.dgr_cuda_mark_visible(positions.shape[0], *arrays, *_where(positions.device)))
    return visible
