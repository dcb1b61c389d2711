# SPDX-License-Identifier: Apache-2.0
"""How often an object is clean (one front, as it should be): shares, and exact paired tests between variants.

Outcomes are clean or not and mostly decided by the seed, so variants are compared on pairs of equal object and seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.experiments.runs import Result
from evaluation.experiments.tables import by_variant, paired
from evaluation.janus import wilson
from utils.wording import markdown

Contrast = tuple[str, str, str]
"""(name, variant, the variant that it is compared with)"""

ALPHA = 0.05


@dataclass(frozen=True)
class Pairs:
    """Pairs of equal object and seed: clean in both variants, in the first or the other alone, in neither."""

    both: int
    first: int
    other: int
    neither: int

    @property
    def total(self) -> int:
        return self.both + self.first + self.other + self.neither

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: is `first` as likely as `other` among the pairs that differ?"""
        return mcnemar(self.first, self.other)


def mcnemar(first: int, other: int) -> float:
    """Two-sided exact p of `first` successes in first + other trials of a fair coin (McNemar 1947); 1 for no trial."""
    trials = first + other
    tail = sum(math.comb(trials, k) for k in range(min(first, other) + 1)) / 2**trials
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: reject those at most alpha (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def pairs_of(results: Sequence[Result], variant: str, other: str) -> Pairs:
    """Counts the pairs that have both variants; objects without a front are left out."""
    fronted = [result for result in results if result["scores"]["clean"] is not None]
    found = paired(fronted, variant, other)
    cells = [(bool(first["scores"]["clean"]), bool(second["scores"]["clean"])) for first, second in found]
    return Pairs(*(cells.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))


def tables(results: Sequence[Result], contrasts: Sequence[Contrast]) -> list[str]:
    """Markdown lines: share of clean objects of each variant and object, then the paired tests. None without fronts."""
    fronted = [result for result in results if result["scores"]["clean"] is not None]
    if not fronted:
        return []
    prompts = list(dict.fromkeys(result["prompt"] for result in fronted))
    rows = []
    for variant, own in by_variant(fronted).items():
        by_prompt = [[result for result in own if result["prompt"] == prompt] for prompt in prompts]
        rows.append([variant, _share(own, interval=True), *(_share(some) for some in by_prompt)])
    biases = [_biases(fronted, prompt) for prompt in prompts]
    header = ["variant", "clean", *(f"{prompt} (bias {bias})" for prompt, bias in zip(prompts, biases))]
    return [
        "Clean objects of all, with Wilson's 95 % interval:", "", markdown(header, rows), "",
        *_tests(fronted, contrasts),
    ]  # fmt: skip


def _tests(results: Sequence[Result], contrasts: Sequence[Contrast]) -> list[str]:
    found = [(contrast, pairs_of(results, *contrast[1:])) for contrast in contrasts]
    found = [(contrast, pairs) for contrast, pairs in found if pairs.total]
    if not found:
        return []
    adjusted = holm([pairs.p for _, pairs in found])
    rows = []
    for ((name, variant, other), pairs), p_holm in zip(found, adjusted):
        counts = [str(count) for count in (pairs.total, pairs.both, pairs.first, pairs.other, pairs.neither)]
        holm_text = f"**{p_holm:.3f}**" if p_holm <= ALPHA else f"{p_holm:.3f}"
        rows.append([name, variant, other, *counts, f"{pairs.p:.3f}", holm_text])
    header = ["contrast", "variant", "other", "pairs", "both clean", "variant only", "other only", "neither", "p"]
    return [
        f"Clean or not, in pairs of equal object and seed; McNemar's exact p, and Holm's for {len(found)} comparisons "
        f"(bold at most {ALPHA}):", "", markdown([*header, "Holm's p"], rows), "",
    ]  # fmt: skip


def _share(results: Sequence[Result], interval: bool = False) -> str:
    clean = sum(result["scores"]["clean"] for result in results)
    low, high = wilson(clean, len(results))
    return f"{clean}/{len(results)}" + (f" ({low:.2f}..{high:.2f})" if interval else "")


def _biases(results: Sequence[Result], prompt: str) -> str:
    return ", ".join(sorted({f"{r['front_bias']:g}" for r in results if r["prompt"] == prompt}))
