# SPDX-License-Identifier: Apache-2.0
"""The CUDA library (csrc/cuda_neighbours.cu): loading, and the search on torch's buffers and stream."""

import ctypes
import logging
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

INSTALL = "make nvcc available and run pip install --force-reinstall --no-deps ./submodules/simple-knn"

DEVICE_TYPE = "cuda"
_LONG, _POINTER = ctypes.c_int64, ctypes.c_void_p


def load(path: Path) -> ctypes.CDLL:
    """The library with its argument types set; OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(path))
    where: tuple[Any, ...] = (ctypes.c_int, _POINTER)  # device, stream
    library.knn_cuda_archs.restype = library.knn_cuda_last_error.restype = ctypes.c_char_p
    library.knn_cuda_scratch_bytes.argtypes = [_LONG]
    library.knn_cuda_scratch_bytes.restype = _LONG
    library.knn_cuda_codes.argtypes = [_LONG, _POINTER, _POINTER, _POINTER, *where]
    library.knn_cuda_mean_squared_distances.argtypes = [_LONG, _POINTER, _POINTER, _POINTER, _POINTER, *where]
    return library


def _load_installed() -> tuple[ctypes.CDLL | None, str | None]:
    path = Path(__file__).with_name("_cuda_kernels.so")
    note = path.with_suffix(".txt")
    if not path.is_file():
        return None, note.read_text().strip() if note.is_file() else "the package was built without CUDA"
    try:
        return load(path), None
    except OSError as error:
        return None, str(error)


LIBRARY, WHY_NOT = _load_installed()
_usable: dict[torch.device, bool] = {}


def why_not(device: torch.device) -> str | None:
    """Why the kernels do not run on a CUDA device: no library, or no code for it; None where they do."""
    if LIBRARY is None:
        return WHY_NOT
    if LIBRARY.knn_cuda_probe(device.index or 0) == 0:
        return None
    return f"{LIBRARY.knn_cuda_last_error().decode()} (they were compiled for {LIBRARY.knn_cuda_archs().decode()})"


def usable(device: torch.device) -> bool:
    """Whether the kernels search this device's points; for a CUDA device without kernels, a warning says why not."""
    if device.type != DEVICE_TYPE:
        return False
    if device not in _usable:
        reason = why_not(device)
        _usable[device] = reason is None
        if reason is not None:
            told = "simple_knn's CUDA kernels do not run on %s: %s. The CPU searches instead. To change that: %s"
            logger.warning(told, device, reason, INSTALL)
    return _usable[device]


def _check(code: int) -> None:
    if code:
        assert LIBRARY is not None
        raise RuntimeError(f"distCUDA2: {LIBRARY.knn_cuda_last_error().decode()}")


def mean_squared_distances(points: torch.Tensor) -> torch.Tensor:
    """[N] mean squared distances to the three nearest others of contiguous finite points [N,3]; waits for nothing."""
    assert LIBRARY is not None
    device, n = points.device, points.shape[0]
    if n == 0:
        return points.new_empty(0)
    where = device.index or 0, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    bounds = torch.stack(torch.aminmax(points, dim=0))
    codes = torch.empty(n, dtype=torch.int64, device=device)
    _check(LIBRARY.knn_cuda_codes(n, points.data_ptr(), bounds.data_ptr(), codes.data_ptr(), *where))
    order = torch.argsort(codes)
    distances = points.new_empty(n)
    scratch = torch.empty(LIBRARY.knn_cuda_scratch_bytes(n), dtype=torch.uint8, device=device)
    buffers = (points.data_ptr(), order.data_ptr(), distances.data_ptr(), scratch.data_ptr())
    _check(LIBRARY.knn_cuda_mean_squared_distances(n, *buffers, *where))
    return distances
