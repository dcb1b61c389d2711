# SPDX-License-Identifier: Apache-2.0
"""`distCUDA2` under upstream's name and module, on top of the C library (csrc/neighbours.cpp)."""

import ctypes
from pathlib import Path

import torch


def _load_library() -> ctypes.CDLL:
    path = Path(__file__).with_name("_neighbours.so")
    if not path.is_file():
        raise ImportError(f"{path} is missing: build it with `pip install ./submodules/simple-knn`")
    library = ctypes.CDLL(str(path))
    library.knn_mean_squared_distances.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
    return library


_LIBRARY = _load_library()


def distCUDA2(points: torch.Tensor) -> torch.Tensor:
    """Mean squared distance to the three nearest other points, exact.

    Args:
        points: [N,3] float32, N >= 0; CUDA tensors are carried to the CPU and back.
    Returns:
        [N] float32 on the points' device: mean over the min(3, N-1) nearest others; duplicates count at distance 0;
        0 for N = 1.
    Raises:
        ValueError: for another dtype, device or shape, or for points that are not finite.
    """
    if not isinstance(points, torch.Tensor) or points.dtype != torch.float32:
        given = points.dtype if isinstance(points, torch.Tensor) else type(points).__name__
        raise ValueError(f"points is {given}, expected a torch.float32 tensor: call points.float()")
    if points.device.type not in ("cpu", "cuda"):
        raise ValueError(f"points is on {points.device}; expected a tensor on the CPU or on a CUDA device")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points has shape {tuple(points.shape)}, expected (N, 3)")
    device, points = points.device, points.detach().contiguous()
    n_bad = int((~torch.isfinite(points).all(dim=1)).sum())
    if n_bad:
        raise ValueError(f"{n_bad} of {points.shape[0]} points are NaN or infinite: remove them first")
    points = points.cpu()
    distances = torch.empty(points.shape[0], dtype=torch.float32, device="cpu")
    code = _LIBRARY.knn_mean_squared_distances(
        points.shape[0], points.data_ptr(), distances.data_ptr(), torch.get_num_threads()
    )
    if code:
        raise MemoryError(f"distCUDA2 ran out of memory for {points.shape[0]} points")
    return distances.to(device)
