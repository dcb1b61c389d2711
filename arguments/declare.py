# SPDX-License-Identifier: Apache-2.0
"""How a configuration key is declared: default, unit, bounds, choices and help stand in one place.

`key(...)` makes a dataclass field that carries a `KeySpec`; YAML, the command line, `--help` and the
documentation all read that one declaration.
"""

import dataclasses
import functools
import re
import typing
from typing import Any

FRACTION = {"lo": 0.0, "hi": 1.0}
T_RANGE: dict[str, Any] = {**FRACTION, "ordered": True}
MANY, LARGE = 10**9, 1e9  # nothing overflows in single precision
RATE, SIGNED, LENGTH = {"lo": 0.0, "hi": LARGE}, {"lo": -LARGE, "hi": LARGE}, {"lo": 1e-3, "hi": 1e4}
STEPS: dict[str, Any] = {"unit": "iterations", "lo": 1, "hi": MANY}
FROM_STEP: dict[str, Any] = {"unit": "iterations", "lo": 0, "hi": MANY}


@dataclasses.dataclass(frozen=True)
class KeySpec:
    """What a key accepts beyond its type. Bounds hold for every element of a pair.

    others: what a text may be besides `choices`, in words and as a pattern;
    lo, hi: inclusive bounds; above, below: exclusive bounds; ordered: a range, lo <= hi;
    device: a device name; transient: about this call only, so never written to a file;
    path: what names a file or folder: `file`, `model` (which the program's folder may have too), `law` (FILE.py:NAME);
    unread: accepted for upstream's files, nothing reads it; ours: LucidDreamer has no such key;
    aliases: short command-line flags.
    """

    help: str
    unit: str = ""
    lo: float | None = None
    hi: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    others: tuple[str, re.Pattern[str]] | None = None
    ordered: bool = False
    device: bool = False
    transient: bool = False
    path: str = ""
    unread: bool = False
    ours: bool = False
    aliases: tuple[str, ...] = ()

    def bounds(self) -> str:
        """The bounds in words, e.g. ">= 0 and <= 3"; empty when there are none."""
        limits = ((">=", self.lo), (">", self.above), ("<=", self.hi), ("<", self.below))
        given = [(sign, limit) for sign, limit in limits if limit is not None]
        return " and ".join(f"{sign} {n if isinstance(n, int) else format(n, 'g')}" for sign, n in given)

    def allows(self, number: float) -> bool:
        """Whether one finite number lies within the bounds."""
        return (
            (self.lo is None or number >= self.lo)
            and (self.hi is None or number <= self.hi)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def key(default: Any, help: str, **spec: Any) -> Any:
    """A dataclass field with `default` and a KeySpec made of `help` and the other arguments."""
    transient = spec.get("transient", False)
    return dataclasses.field(default=default, compare=not transient, metadata={"spec": KeySpec(help, **spec)})


new = functools.partial(key, ours=True)
"""`key` for what LucidDreamer does not have."""


@functools.cache
def keys_of(group: type) -> dict[str, tuple[Any, KeySpec, Any]]:
    """All declared keys of a dataclass: name -> (type, KeySpec, default), in order of declaration.

    A field of cograd's has its metadata plain; LucidDreamer has none of those.
    """
    hints = typing.get_type_hints(group)
    return {
        field.name: (
            hints[field.name],
            field.metadata.get("spec") or KeySpec(**field.metadata, ours=True),
            field.default,
        )
        for field in dataclasses.fields(group)
        if field.metadata
    }
