# SPDX-License-Identifier: Apache-2.0
"""Counts in messages, tables of texts."""

from collections.abc import Sequence


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Such as "1 step" and "1,200 steps"; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
