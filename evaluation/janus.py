# SPDX-License-Identifier: Apache-2.0
"""The Janus rate, counted by people who do not know which variant made what (A.2), and how sure such a rate is.

No automatic measure of it is trusted here; what the toy world offers is called a proxy.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LABELS = ("consistent", "janus", "unsure")
Z_95 = 1.959963984540054  # normal quantile of a 95 % interval


@dataclass(frozen=True)
class Rate:
    """`janus` of `counted` scenes, with Wilson's 95 % interval; `unsure` ones are left out and counted apart."""

    janus: int
    counted: int
    unsure: int

    @property
    def value(self) -> float:
        """Share in [0, 1]; nan where nothing was counted."""
        return self.janus / self.counted if self.counted else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.janus, self.counted)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927), within [0, 1]; (0, 1) without a trial."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z_95 * Z_95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def blinded(names: Sequence[str], seed: int) -> dict[str, str]:
    """Number on the sheet -> name, in the sheet's order: a seeded shuffle. The numbers say nothing of the names."""
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    return {f"{number:03d}": name for number, name in enumerate(shuffled, 1)}


def rates(labels: Mapping[str, str], key: Mapping[str, str], variant_of: Mapping[str, str]) -> dict[str, Rate]:
    """Variant -> rate. `labels`: number -> label; `key`: number -> name; `variant_of`: name -> variant.

    Raises ValueError for a number that the key lacks, or an unknown label: the files do not belong together.
    """
    extra = sorted(labels.keys() - key.keys())
    if extra:
        raise ValueError(f"the labels name {extra[0]!r}, which the key lacks; expected the labels of this sheet")
    wrong = sorted(set(labels.values()) - set(LABELS))
    if wrong:
        raise ValueError(f"the labels hold {wrong[0]!r}; expected {', '.join(LABELS)}")
    given: dict[str, list[str]] = {}
    for number, label in labels.items():
        given.setdefault(variant_of[key[number]], []).append(label)
    return {variant: _rate(own) for variant, own in given.items()}


def _rate(labels: Sequence[str]) -> Rate:
    return Rate(labels.count("janus"), labels.count("janus") + labels.count("consistent"), labels.count("unsure"))
