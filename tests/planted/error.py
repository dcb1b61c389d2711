# SPDX-License-Identifier: Apache-2.0
"""A planted error."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """One error: in `file`, `old` becomes `new`; `tests` are pytest's words."""

    file: str
    old: str
    new: str
    tests: str


def planted_in(file: str, tests: str, *changes: tuple[str, str]) -> list[Planted]:
    """The errors (old, new) of one file."""
    return [Planted(file, old, new, tests) for old, new in changes]
