# SPDX-License-Identifier: Apache-2.0
"""Inputs made by damaging good ones."""

from collections.abc import Sequence
from random import Random

from hypothesis import strategies as st

NUMBERS = (b"0", b"-1", b"255", b"65536", b"4294967295", b"99999999999999", b"1e308", b"nan", b"inf", b"-0.0")
SPANS = (0, 0, 1, 2, 4, 8, 64, 1 << 20)


def damaged(seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """One of the seeds with up to five places overwritten, cut out, repeated, or filled with tokens or numbers."""
    # One number draws all: hypothesis's own draws take longer than what is tested.
    return st.integers(0, 2**64 - 1).map(lambda number: _damage(Random(number), seeds, [*tokens, *NUMBERS]))


def _damage(dice: Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((0, 1, 1, 1, 2, 4))):
        at = dice.randint(0, len(data))
        copied = bytes(data[at : at + dice.randint(0, 40)])
        new = dice.choice([dice.choice(tokens), dice.choice(tokens), copied, dice.randbytes(dice.randint(1, 4))])
        data[at : at + dice.choice(SPANS)] = new * dice.choice((1, 1, 1, 1, 2, 300))
    return bytes(data)
