# SPDX-License-Identifier: Apache-2.0
"""Checks at the door of the rasterizer: every tensor by name, every message with what was given and what to do.

N Gaussians, M spherical-harmonics coefficients, H W image.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

MAX_SIDE_PX = 1 << 16


def _shape_text(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"


def _fits(given: torch.Size, shape: tuple[Any, ...]) -> bool:
    return len(given) == len(shape) and all(w.__class__ is str or g == w for g, w in zip(given, shape))


def tensor(name: str, value: Any, shapes: tuple[tuple[Any, ...], ...], device: torch.device) -> torch.Tensor:
    """Returns `value` contiguous after checking type, dtype float32, device and shape.

    Args:
        shapes: accepted shapes; a string stands for any size and is shown in the message.
    Raises:
        ValueError: naming the tensor, what it is and what it should be.
    """
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}, expected a torch.Tensor")
    if value.dtype != torch.float32:
        raise ValueError(f"{name} has dtype {value.dtype}, expected torch.float32: call {name}.float()")
    if value.device != device:
        move = f"{name}.to({str(device)!r})"
        raise ValueError(f"{name} is on {value.device}, means3D is on {device}: move it with {move}")
    if not any(_fits(value.shape, shape) for shape in shapes):
        expected = " or ".join(map(_shape_text, shapes))
        raise ValueError(f"{name} has shape {_shape_text(value.shape)}, expected {expected}")
    return value.contiguous()


def one_of(
    shs: torch.Tensor | None, colors: torch.Tensor | None, scales: torch.Tensor | None,
    rotations: torch.Tensor | None, cov3: torch.Tensor | None,
) -> None:  # fmt: skip
    """Raises ValueError unless colour and shape of the Gaussians are each given in exactly one way."""
    if (shs is None) == (colors is None):
        given = "neither" if shs is None else "both"
        raise ValueError(f"{given} of shs and colors_precomp given: give exactly one of the two")
    if (scales is None) != (rotations is None):
        given, missing = ("rotations", "scales") if scales is None else ("scales", "rotations")
        raise ValueError(f"{given} given without {missing}: give both or cov3D_precomp")
    if (scales is None) == (cov3 is None):
        given = "neither" if scales is None else "both"
        raise ValueError(f"{given} of (scales, rotations) and cov3D_precomp given: give exactly one of the two")


def settings(s: Any, n_sh_coeffs: int | None) -> None:
    """Raises ValueError for an image size, field of view, scale modifier or SH degree that cannot be rendered."""
    for name, side in (("image_height", s.image_height), ("image_width", s.image_width)):
        if not isinstance(side, int) or not 1 <= side <= MAX_SIDE_PX:
            raise ValueError(f"{name} is {side!r}, expected an int from 1 to {MAX_SIDE_PX}")
    for name, tangent in (("tanfovx", s.tanfovx), ("tanfovy", s.tanfovy)):
        if not 0 < tangent < math.inf:
            raise ValueError(f"{name} is {tangent}, expected a positive number: tan(fov/2)")
    if not math.isfinite(s.scale_modifier):
        raise ValueError(f"scale_modifier is {s.scale_modifier}, expected a finite number")
    if n_sh_coeffs is None:
        return
    if not isinstance(s.sh_degree, int) or not 0 <= s.sh_degree <= 3:
        raise ValueError(f"sh_degree is {s.sh_degree!r}, expected an int from 0 to 3")
    needed = (s.sh_degree + 1) ** 2
    if n_sh_coeffs < needed:
        given = f"shs has {n_sh_coeffs} coefficients per Gaussian"
        raise ValueError(f"{given}, sh_degree {s.sh_degree} needs {needed}: lower the degree or give more")


def same_in_all_views(
    settings: Sequence[Any], views: Sequence[Sequence[torch.Tensor | None]], names: Sequence[str]
) -> None:
    """Raises ValueError unless the views agree on image size, flags, and the kind, device and shape of their inputs."""
    for name in ("image_height", "image_width", "depth_z_gradient", "backend", "antialiasing"):
        values = {getattr(s, name) for s in settings}
        if len(values) > 1:
            given = ", ".join(map(str, sorted(values)))
            raise ValueError(f"{name} differs between the views ({given}): render them in calls of their own")
    for name, arrays in zip(names, zip(*views, strict=True), strict=True):
        kinds = ["absent" if x is None else f"{_shape_text(x.shape)} on {x.device}" for x in arrays]
        other = next((v for v, kind in enumerate(kinds) if kind != kinds[0]), None)
        if other is not None:
            given = f"is {kinds[0]} in view 0, {kinds[other]} in view {other}"
            raise ValueError(f"{name} {given}: give all views the same number of Gaussians and kind of inputs")
