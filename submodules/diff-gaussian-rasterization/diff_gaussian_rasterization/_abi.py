# SPDX-License-Identifier: Apache-2.0
"""The C ABI of csrc/abi.h in ctypes: structs, library, state handles. Loads the library on import.

Also the rules for the arrays of B views of N Gaussians that both backends share.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch

ABI = 2
DEPTH_Z_GRADIENT = 1  # flag

_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

SCENE_ARRAYS = (
    "means", "shs", "colors", "opacities", "scales", "rotations", "cov3", "viewmatrix", "projmatrix", "campos",
    "background",
)  # fmt: skip
GRADIENT_ARRAYS = ("means", "means2d", "shs", "colors", "opacities", "scales", "rotations", "cov3")


class Scene(ctypes.Structure):
    """DgrScene: the inputs of one view."""

    _fields_ = [
        ("n_gaussians", _LONG), ("n_sh_coeffs", _INT), ("sh_degree", _INT), ("width_px", _INT), ("height_px", _INT),
        ("tan_fov_x", _FLOAT), ("tan_fov_y", _FLOAT), ("scale_modifier", _FLOAT), ("n_threads", _INT), ("flags", _INT),
        *[(name, _POINTER) for name in SCENE_ARRAYS],
    ]  # fmt: skip


class Images(ctypes.Structure):
    """DgrImages: where the forward pass writes, and its counts."""

    _fields_ = [
        ("color", _POINTER), ("radii", _POINTER), ("depth_alpha", _POINTER),
        ("n_dropped", _LONG), ("n_pairs", _LONG), ("state_bytes", _LONG),
    ]  # fmt: skip


class Gradients(ctypes.Structure):
    """DgrGradients: gradients of the images going in, of the inputs coming out."""

    _fields_ = [("color", _POINTER), ("depth_alpha", _POINTER), *[(f"grad_{n}", _POINTER) for n in GRADIENT_ARRAYS]]


def _load_library() -> ctypes.CDLL:
    path = Path(__file__).with_name("_cpu.so")
    if not path.is_file():
        raise ImportError(f"{path} is missing: build it with `pip install ./submodules/diff-gaussian-rasterization`")
    library = ctypes.CDLL(str(path))
    if library.dgr_abi() != ABI:
        raise ImportError(f"{path} has ABI {library.dgr_abi()}, this Python code needs {ABI}: install it again")
    scenes, states = ctypes.POINTER(Scene), ctypes.POINTER(_POINTER)
    library.dgr_cpu_forward.argtypes = [ctypes.c_int, scenes, ctypes.POINTER(Images), states]
    library.dgr_cpu_backward.argtypes = [ctypes.c_int, scenes, states, ctypes.POINTER(Gradients)]
    library.dgr_cpu_release.argtypes = [_POINTER]
    library.dgr_cpu_release.restype = None
    library.dgr_cpu_mark_visible.argtypes = [_LONG, _POINTER, _POINTER, _POINTER]
    library.dgr_cpu_mark_visible.restype = None
    library.dgr_isa.restype = library.dgr_last_error.restype = ctypes.c_char_p
    library.dgr_force_isa.argtypes = [ctypes.c_char_p]
    return library


LIBRARY = _load_library()


def check(code: int) -> None:
    """Raises RuntimeError (MemoryError where memory ran out) with the library's message unless `code` is 0."""
    if code:
        message = f"rasterizer: {LIBRARY.dgr_last_error().decode()}"
        raise MemoryError(message) if code == 2 else RuntimeError(message)


class States:
    """What the backward pass needs of the rendered views; gives it back to the library's pool when it dies."""

    __slots__ = ("handles",)

    def __init__(self, n_views: int) -> None:
        self.handles = (_POINTER * n_views)()

    def __del__(self, release: Any = LIBRARY.dgr_cpu_release) -> None:
        for handle in self.handles:
            if handle:
                release(handle)


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's data begins; None for an absent one."""
    return None if tensor is None else tensor.data_ptr()


def shared_by_views(name: str, shape: torch.Size, n: int) -> bool:
    """Whether an array is [N, ...] for all views, and not [B, N, ...]; for shs by dimensions, as B*M may be M'."""
    widths = {"means": 3, "means2d": 3, "colors": 3, "opacities": 1, "scales": 3, "rotations": 4, "cov3": 6}
    return len(shape) == 3 if name == "shs" else shape.numel() == n * widths[name]


def as_input(gradient: torch.Tensor | None, shape: torch.Size | None) -> torch.Tensor | None:
    """Sums over the views that share the input."""
    if gradient is None or shape is None or gradient.shape == shape:
        return gradient
    return gradient.view(shape) if gradient.shape[0] == 1 else gradient.sum(0)
