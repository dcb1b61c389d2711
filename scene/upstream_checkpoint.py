# SPDX-License-Identifier: Apache-2.0
"""Upstream's chkpntK.pth, read only: torch.save((gaussians.capture(), K)) of 3D Gaussian Splatting or LucidDreamer.

N Gaussians, C = (degree + 1)^2 - 1 coefficients. torch's weights_only loading runs no code from the file.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHAPES = {
    "xyz": "N 3",
    "f_dc": "N 1 3",
    "f_rest": "N C 3",
    "scaling": "N 3",
    "rotation": "N 4",
    "opacity": "N 1",
    "max_radii2D": "N",
    "xyz_gradient_accum": "N 1",
    "denom": "N 1",
}
"""Tensors in upstream's order, between the active SH degree and the optimizer's state."""
STATISTICS = ("max_radii2D", "xyz_gradient_accum", "denom")
NUMPY_SCALARS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
]
"""What plain 3DGS's scene extent, a NumPy number, is stored with; nothing of it runs code."""


def is_upstream(path: str | Path) -> bool:
    """Whether the name is that of a torch file."""
    return Path(path).suffix in (".pth", ".pt")


def read_upstream(path: Path) -> tuple[dict[str, Any], int]:
    """(what GaussianModel.restore takes, the iteration). Raises ValueError for anything that is not such a file."""
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            stored = torch.load(path, map_location="cpu", weights_only=True)
        captured, iteration = stored
        if type(iteration) is not int or iteration < 0 or not isinstance(captured, tuple | list):
            raise ValueError("not a pair of gaussians.capture() and the iteration")
        return _captured(list(captured)), iteration
    except Exception as error:  # of a hostile file torch's reader raises nearly anything
        reason = re.split(r"[\n;]", str(error))[0][:160]
        raise ValueError(
            f"{path} cannot be imported ({type(error).__name__}: {reason}); expected upstream's chkpntK.pth with the "
            "12 values of 3DGS or the 13 of LucidDreamer, or a chkpntK.safetensors of this program"
        ) from error


def _captured(values: list[Any]) -> dict[str, Any]:
    background = torch.zeros(3, 1, 1)
    if len(values) == 13:  # LucidDreamer's has the background among the parameters
        places = [k for k, x in enumerate(values) if isinstance(x, Tensor) and x.shape == (3, 1, 1)]
        if places:
            background = values.pop(places[0])
    if len(values) != 12 or type(values[0]) is not int or not isinstance(values[10], dict):
        raise ValueError(f"{len(values)} values, not 12 or 13 in upstream's order")
    tensors = dict(zip(SHAPES, values[1:10], strict=True))
    _check(tensors)
    parameters = {name: x.detach().float() for name, x in tensors.items() if name not in STATISTICS}
    ordered = ("xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation")
    return {
        "active_sh_degree": values[0],
        "parameters": {**{name: parameters[name] for name in ordered}, "background": background.detach().float()},
        "optimizer": _optimizer({**parameters, "background": background}, values[10]),
        "statistics": {name: tensors[name].detach().float() for name in STATISTICS},
    }


def _check(tensors: dict[str, Any]) -> None:
    """ValueError for the first tensor that has not its shape, or holds a number that is not finite."""
    sizes: dict[str, int] = {}
    for name, shape in SHAPES.items():
        x, letters = tensors[name], shape.split()
        if not isinstance(x, Tensor) or x.ndim != len(letters):
            raise ValueError(f"{name} is not a tensor [{shape}]")
        for letter, size in zip(letters, x.shape, strict=True):
            wanted = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != wanted:
                raise ValueError(f"{name} is {list(x.shape)}, expected [{shape}] with {sizes}")
        if not bool(x.float().isfinite().all()):
            raise ValueError(f"{name} is not finite in single precision")


def _optimizer(parameters: dict[str, Tensor], state: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Adam's moments and step count by parameter name; empty where upstream has none yet."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for group in state["param_groups"]:
        name, (number,) = group["name"], group["params"]
        moments = state["state"].get(number)
        if name not in found or not moments:
            continue
        for key in ("exp_avg", "exp_avg_sq"):
            if moments[key].shape != parameters[name].shape or not bool(moments[key].float().isfinite().all()):
                raise ValueError(f"the optimizer's {key} of {name} has another shape or is not finite")
        step = torch.as_tensor(moments["step"], dtype=torch.float32)
        found[name] = {"step": step, "exp_avg": moments["exp_avg"], "exp_avg_sq": moments["exp_avg_sq"]}
    return found
