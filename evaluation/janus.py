# SPDX-License-Identifier: Apache-2.0
"""The Janus rate, counted by people who do not know which variant made what (A.2), and how sure such a rate is.

No automatic measure of it is trusted here; what the toy world offers is called a proxy.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LABELS = ("consistent", "janus", "unsure")
ID_LETTERS = 12  # of a hash: two of 1000 assets have one id with a chance of 2e-9
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
    p, z2 = successes / trials, Z_95 * Z_95
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def share(hits: int, trials: int) -> str:
    """As 0.95 (19/20, 0.764 .. 0.991), with Wilson's 95 % interval; - without a trial."""
    if trials == 0:
        return "-"
    low, high = wilson(hits, trials)
    return f"{hits / trials:.2f} ({hits}/{trials}, {low:.3f} .. {high:.3f})"


def blinded(names: Iterable[str], sheet: str) -> dict[str, str]:
    """Id on the sheet -> name, in the sheet's order: that of hashes with the sheet's identity, which show no name.

    An id depends on its own name alone, so that it stays when other names come or go.
    """
    ids = {hashlib.sha256(f"{sheet} {name}".encode()).hexdigest()[:ID_LETTERS]: name for name in names}
    return dict(sorted(ids.items()))


def rates(labels: Mapping[str, str], key: Mapping[str, str], variant_of: Mapping[str, str]) -> dict[str, Rate]:
    """Variant -> rate. `labels`: id -> label; `key`: id -> name; `variant_of`: name -> variant, of those to count.

    Raises ValueError for an id that the key lacks, or an unknown label: the files do not belong together.
    """
    extra = sorted(labels.keys() - key.keys())
    if extra:
        raise ValueError(f"the labels name {extra[0]!r}, which the key lacks; expected the labels of this sheet")
    wrong = sorted(set(labels.values()) - set(LABELS))
    if wrong:
        raise ValueError(f"the labels hold {wrong[0]!r}; expected {', '.join(LABELS)}")
    by_name = {key[number]: label for number, label in labels.items()}  # a name may have ids of before 2026-12
    given: dict[str, list[str]] = {}
    for name, variant in variant_of.items():
        if name in by_name:
            given.setdefault(variant, []).append(by_name[name])
    return {variant: _rate(own) for variant, own in given.items()}


def _rate(labels: Sequence[str]) -> Rate:
    return Rate(labels.count("janus"), labels.count("janus") + labels.count("consistent"), labels.count("unsure"))
