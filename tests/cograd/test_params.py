# SPDX-License-Identifier: Apache-2.0
"""A wrong field of CoGradParams is one sentence, whoever makes it; every field is what its metadata says."""

import dataclasses
import math

import pytest

from arguments.declare import keys_of
from cograd import CoGradParams

FIELDS = {name: (kind, spec, default) for name, (kind, spec, default) in keys_of(CoGradParams).items()}


def _wrong(name: str) -> list[object]:
    """Values that a field must refuse: of another type, beyond each of its bounds, reversed, unknown."""
    kind, spec, default = FIELDS[name]
    if kind in (bool, str):
        return [None, 1, "no such"]
    numbers = [None, "1", True, math.nan, math.inf, *([0.5] if "int" in str(kind) else [])]
    numbers += [bound - 1 for bound in (spec.lo,) if bound is not None] + [bound + 1 for bound in (spec.hi,) if bound is not None]
    numbers += [bound for bound in (spec.above, spec.below) if bound is not None]
    if not isinstance(default, tuple):
        return numbers
    low, high = default
    return [*((number, high) for number in numbers), *((low, number) for number in numbers), (high, low), (low,), (low, low, high), list(default), low]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_refuses_what_it_does_not_take(name) -> None:
    for value in _wrong(name):
        with pytest.raises(ValueError, match=rf"CoGradParams\.{name} is .*; expected (one of |True or False|a )"):
            CoGradParams(**{name: value})


def test_a_message_says_type_bounds_and_unit() -> None:
    for values, expected in (
        ({"tau": -1}, "CoGradParams.tau is -1; expected a number >= 1e-06 and <= 1e+09"),
        ({"t_jitter": -1}, "CoGradParams.t_jitter is -1; expected a whole number >= 0 and <= 100000 (timesteps)"),
        ({"prog_range": (0.8, 0.2)}, "CoGradParams.prog_range is (0.8, 0.2); expected a tuple (lo, hi) with lo <= hi, each a number >= 0 and <= 1"),
        ({"projection": "x"}, "CoGradParams.projection is 'x'; expected one of vector, group"),
        ({"use_fusion": None}, "CoGradParams.use_fusion is None; expected True or False"),
    ):
        with pytest.raises(ValueError) as error:
            CoGradParams(**values)
        assert str(error.value) == expected


def test_whole_numbers_and_bounds_are_taken() -> None:
    params = CoGradParams(tau=1, prog_range=(0, 1), momentum=0, t_base_range=(100, 100))
    assert dataclasses.replace(params, tau=1.0) == params
    for name, (_, spec, default) in FIELDS.items():
        for value in (spec.lo, spec.hi, *spec.choices):
            if value is not None:
                CoGradParams(**{name: (value, value) if isinstance(default, tuple) else value})
