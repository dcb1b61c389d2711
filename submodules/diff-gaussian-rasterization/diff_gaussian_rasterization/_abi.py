# SPDX-License-Identifier: Apache-2.0
"""The C ABI of csrc/abi.h in ctypes: structs, library, state handles. Loads the library on import.

Also what both backends do with B views: their inputs as structs, and the arrays of their outputs and gradients.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ABI = 3
DEPTH_Z_GRADIENT, ANTIALIASING = 1, 2  # flags

_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

SCENE_ARRAYS = (
    "means", "shs", "colors", "opacities", "scales", "rotations", "cov3", "viewmatrix", "projmatrix", "campos",
    "background",
)  # fmt: skip
INPUT_ARRAYS = ("means", "means2d", "shs", "colors", "opacities", "scales", "rotations", "cov3")  # of one view


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

    _fields_ = [("color", _POINTER), ("depth_alpha", _POINTER), *[(f"grad_{n}", _POINTER) for n in INPUT_ARRAYS]]


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


def split(arrays: Sequence[torch.Tensor | None]) -> list[dict[str, torch.Tensor | None]]:
    """The inputs of each view by name, from those of all views in one row."""
    width = len(INPUT_ARRAYS)
    return [dict(zip(INPUT_ARRAYS, arrays[k : k + width])) for k in range(0, len(arrays), width)]


def scenes(settings: Sequence[Any], views: Sequence[Mapping[str, torch.Tensor | None]]) -> ctypes.Array:
    """One struct for each view; the tensors must outlive it."""
    structs = []
    for s, arrays in zip(settings, views, strict=True):
        means, shs = arrays["means"], arrays["shs"]
        assert means is not None
        structs.append(Scene(
            len(means), 0 if shs is None else shs.shape[1], s.sh_degree, s.image_width, s.image_height, s.tanfovx,
            s.tanfovy, s.scale_modifier, torch.get_num_threads(),
            (DEPTH_Z_GRADIENT if s.depth_z_gradient else 0) | (ANTIALIASING if s.antialiasing else 0),
            *[address(arrays[name]) for name in SCENE_ARRAYS[:7]],
            *map(address, (s.viewmatrix, s.projmatrix, s.campos, s.bg)),
        ))  # fmt: skip
    return (Scene * len(structs))(*structs)


def new_outputs(
    s: Any, view: Mapping[str, torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Room for one view's colour [3,H,W], radii [N] and depth_alpha [2,H,W]."""
    means, h, w = view["means"], s.image_height, s.image_width
    assert means is not None
    return means.new_empty(3, h, w), means.new_empty(len(means), dtype=torch.int32), means.new_empty(2, h, w)


def images(outputs: Sequence[Sequence[torch.Tensor]]) -> ctypes.Array:
    """The structs that say where each view is written."""
    return (Images * len(outputs))(*[Images(*map(address, view)) for view in outputs])


def save(ctx: Any, settings: Sequence[Any], views: Sequence[Mapping[str, torch.Tensor | None]]) -> None:
    """Keeps for the backward pass what both backends need; means2d, whose values nobody reads, by its shape only."""
    ctx.settings = settings
    ctx.means2d_shapes = [view["means2d"].shape for view in views if view["means2d"] is not None]
    ctx.save_for_backward(*[None if k == "means2d" else x for view in views for k, x in view.items()])
    ctx.set_materialize_grads(False)


def gradients(
    ctx: Any, incoming: Sequence[torch.Tensor | None]
) -> tuple[ctypes.Array, list[torch.Tensor | None], list[torch.Tensor]]:
    """What the backward pass takes and fills, for gradients of each view's (colour, radii, depth_alpha).

    Returns structs, the new gradients of all inputs in one row (None for absent ones), and tensors to be kept alive
    until the structs have been read.
    """
    structs, outgoing, kept = [], [], []
    for v, (view, means2d_shape) in enumerate(zip(split(ctx.saved_tensors), ctx.means2d_shapes, strict=True)):
        means = view["means"]
        assert means is not None
        given = [None if g is None else g.contiguous() for g in (incoming[3 * v], incoming[3 * v + 2])]
        shapes = {name: None if x is None else x.shape for name, x in view.items()} | {"means2d": means2d_shape}
        made = [None if shape is None else means.new_empty(shape) for shape in shapes.values()]
        structs.append(Gradients(*map(address, (*given, *made))))
        outgoing += made
        kept += [g for g in given if g is not None]
    return (Gradients * len(structs))(*structs), outgoing, kept
