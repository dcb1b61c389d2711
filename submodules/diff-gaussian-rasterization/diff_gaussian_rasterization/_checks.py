# SPDX-License-Identifier: Apache-2.0
"""Checks at the door of the rasterizer: every tensor by name, every message with what was given and what to do.

N Gaussians, M spherical-harmonics coefficients, H W image.
"""

import math
from typing import Any, Optional

import torch

MAX_SIDE_PX = 1 << 16


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _shape_text(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"


def tensor(name: str, value: Any, shapes: tuple[tuple[Any, ...], ...], device: torch.device) -> torch.Tensor:
    """Returns `value` contiguous after checking type, dtype float32, device and shape.

    Args:
        shapes: accepted shapes; a string stands for any size and is shown in the message.
    Raises:
        ValueError: naming the tensor, what it is and what it should be.
    """
    _require(isinstance(value, torch.Tensor), f"{name} is a {type(value).__name__}, expected a torch.Tensor")
    _require(value.dtype == torch.float32, f"{name} has dtype {value.dtype}, expected torch.float32: call {name}.float()")
    _require(value.device == device, f"{name} is on {value.device}, means3D is on {device}: move it with {name}.to({str(device)!r})")
    given = tuple(value.shape)
    fits = any(len(given) == len(s) and all(isinstance(w, str) or g == w for g, w in zip(given, s)) for s in shapes)
    _require(fits, f"{name} has shape {_shape_text(given)}, expected {' or '.join(map(_shape_text, shapes))}")
    return value.contiguous()


def one_of(
    shs: Optional[torch.Tensor], colors: Optional[torch.Tensor], scales: Optional[torch.Tensor],
    rotations: Optional[torch.Tensor], cov3: Optional[torch.Tensor],
) -> None:  # fmt: skip
    """Raises ValueError unless colour and shape of the Gaussians are each given in exactly one way."""
    _require(
        (shs is None) != (colors is None),
        f"{'neither' if shs is None else 'both'} of shs and colors_precomp given: give exactly one of the two",
    )
    _require(
        (scales is None) == (rotations is None),
        f"{'rotations' if scales is None else 'scales'} given without {'scales' if scales is None else 'rotations'}: "
        "give both or cov3D_precomp",
    )
    _require(
        (scales is None) != (cov3 is None),
        f"{'neither' if scales is None else 'both'} of (scales, rotations) and cov3D_precomp given: give exactly one of the two",
    )


def settings(s: Any, n_sh_coeffs: Optional[int]) -> None:
    """Raises ValueError for an image size, field of view, scale modifier or SH degree that cannot be rendered."""
    for name in ("image_height", "image_width"):
        value = getattr(s, name)
        _require(
            isinstance(value, int) and 1 <= value <= MAX_SIDE_PX,
            f"{name} is {value!r}, expected an int from 1 to {MAX_SIDE_PX}",
        )
    for name in ("tanfovx", "tanfovy"):
        value = getattr(s, name)
        _require(value > 0 and math.isfinite(value), f"{name} is {value}, expected a positive number: tan(fov/2)")
    _require(math.isfinite(s.scale_modifier), f"scale_modifier is {s.scale_modifier}, expected a finite number")
    if n_sh_coeffs is None:
        return
    _require(isinstance(s.sh_degree, int) and 0 <= s.sh_degree <= 3, f"sh_degree is {s.sh_degree!r}, expected an int from 0 to 3")
    needed = (s.sh_degree + 1) ** 2
    _require(
        n_sh_coeffs >= needed,
        f"shs has {n_sh_coeffs} coefficients per Gaussian, sh_degree {s.sh_degree} needs {needed}: lower the degree or give more",
    )
