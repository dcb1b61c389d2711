# SPDX-License-Identifier: Apache-2.0
"""What a trainer passes in, looked at before anything is computed or stored: types, shapes, lengths and bounds.

Of gradients only types and shapes are read, so that no device is waited for. Letters of shapes: B views, N rows of the
parameters, M after points were added or removed.
"""

import operator
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cograd.fusion import Flat, Gradient


class Rows(NamedTuple):
    """A map of rows that has been looked at: every source is a row that there is."""

    source: Tensor  # [M] int64
    is_new: Tensor  # [M] bool


def whole(value: object, name: str, meaning: str, lowest: int, highest: int | None = None) -> int:
    """`value` as an int. ValueError unless it is a whole number within the bounds; `meaning` says of what."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = lowest - 1
    if number < lowest or (highest is not None and number > highest):
        bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name} is {value!r}; expected {meaning}, a whole number {bounds}")
    return number


def indices(x: object, name: str, meaning: str, count: int) -> list[int]:
    """The numbers of a tensor [B] of integers. ValueError unless each is one of 0..count - 1."""
    if not isinstance(x, Tensor) or x.dim() != 1 or not _is_integer(x):
        raise ValueError(f"{name} is {_described(x)}; expected a tensor [B] of integers, {meaning} of each view")
    found: list[int] = x.tolist()
    for k, number in enumerate(found):
        if not 0 <= number < count:
            whole(number, f"{name}[{k}]", meaning, 0, count - 1)
    return found


def numbers(x: object, name: str, meaning: str) -> list[float]:
    """The numbers of a tensor [B]. ValueError unless it is one."""
    if not isinstance(x, Tensor) or x.dim() != 1:
        raise ValueError(f"{name} is {_described(x)}; expected a tensor [B], {meaning} of each view: torch.stack(...)")
    return x.tolist()


def check_lengths(lengths: Mapping[str, int]) -> None:
    """ValueError unless what is passed for the views, by name, is of one length."""
    if len(set(lengths.values())) > 1:
        raise ValueError(f"lengths are {dict(lengths)}; expected one length, that of the views")


def rows_of(gradient: Gradient, fixed_names: Collection[str]) -> int | None:
    """N of the tensors [N, ...] that are not fixed; None where all are.

    ValueError unless these are dense tensors of floating point numbers, on one device, and of one N.
    """
    if not isinstance(gradient, Mapping):
        raise ValueError(f"a gradient is {_described(gradient)}; expected tensors by name, {{name: gradient}}")
    shapes = gradient.shapes if isinstance(gradient, Flat) else _shapes(gradient)
    by_row = [shape[0] if shape else -1 for name, shape in shapes.items() if name not in fixed_names]
    if not by_row:
        return None
    if min(by_row) != max(by_row) or by_row[0] < 0:
        given = {name: tuple(shape) for name, shape in shapes.items() if name not in fixed_names}
        raise ValueError(
            f"gradients by row have shapes {given}; expected one number of rows: what is not by row belongs in "
            f"fixed_names of CoGrad(...), which has {sorted(fixed_names)}"
        )
    return by_row[0]


def _shapes(gradient: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    shapes, devices = {}, set[torch.device]()
    for name, g in gradient.items():
        if not isinstance(g, Tensor) or not g.is_floating_point() or g.layout is not torch.strided:
            raise ValueError(
                f"the gradient of {name!r} is {_described(g)}; expected a dense tensor of floating point numbers, "
                "torch.zeros_like(parameter) where the loss does not depend on a parameter"
            )
        shapes[name] = g.shape
        devices.add(g.device)
    if len(devices) > 1:
        raise ValueError(f"gradients are on {' and '.join(sorted(map(str, devices)))}; expected one device")
    return shapes


def checked_rows(source: object, is_new: object, count: int | None) -> Rows:
    """source [M] and is_new [M] of a map from `count` rows (None: any), new rows reading any row that there is.

    ValueError unless they are integers and bools of one length, and the source of each row that is not new is a row.
    """
    if not isinstance(source, Tensor) or source.dim() != 1 or not _is_integer(source):
        raise ValueError(f"index_map.source is {_described(source)}; expected integers [M], the old row of each row")
    if not isinstance(is_new, Tensor) or is_new.shape != source.shape or is_new.dtype != torch.bool:
        raise ValueError(
            f"index_map.is_new is {_described(is_new)}; expected bools ({len(source)},), as many as index_map.source: "
            "true for rows without a past"
        )
    source, is_new = source.long(), is_new.to(source.device)
    if count is None:
        return Rows(source, is_new)
    wrong = ~is_new & ((source < 0) | (source >= count))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"index_map.source[{row}] is {int(source[row])}; expected a row of 0 to {count - 1}, those of the bank, "
            "for each row that is not new"
        )
    return Rows(source.clamp(0, max(count - 1, 0)), is_new)


def _is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _described(x: object) -> str:
    """What was given, in a few words."""
    if isinstance(x, Tensor):
        sparse = "" if x.layout is torch.strided else "sparse "
        return f"a {sparse}tensor {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
    return "None" if x is None else f"a {type(x).__name__}"
