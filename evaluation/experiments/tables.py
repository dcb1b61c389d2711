# SPDX-License-Identifier: Apache-2.0
"""What the summaries of all experiments share: the results of each variant, means, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np

from evaluation.experiments.runs import Result

MECHANISMS = {
    "loss_explained_by_t": ("R² of log loss on t", 2),
    "starved_share": ("regions starved", 3),
    "largest_probability": ("largest P", 2),
    "clipped_share": ("u clipped", 2),
    "auxiliaries": ("auxiliaries a view", 2),
    "cosine": ("cosine with g_main", 2),
    "norm_gain": ("|g_fused| / |g_main|", 3),
}
"""Fact of facts.mechanism -> title, decimals."""


def by_variant(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Variant -> its results, in the order in which they come."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result["variant"], []).append(result)
    return found


def paired(results: Iterable[Result], variant: str, other: str) -> list[tuple[Result, Result]]:
    """The results of two variants that have all else in common: prior, front bias, prompt and seed; in that order.

    Raises ValueError where two results have all of it in common: neither may stand for both.
    """
    found: dict[str, dict[tuple[str, float, str, int], Result]] = {variant: {}, other: {}}
    for result in results:
        if (own := found.get(result["variant"])) is not None:
            cell = result["prior"], result["front_bias"], result["prompt"], result["seed"]
            if own.setdefault(cell, result) is not result:
                raise ValueError(
                    f"two runs of {result['variant']} have the prior {cell[0]}, front bias {cell[1]:g}, the prompt "
                    f"{cell[2]!r} and seed {cell[3]}; expected one of each; move one of them to another folder"
                )
    return [(found[variant][cell], found[other][cell]) for cell in sorted(found[variant].keys() & found[other].keys())]


def mechanism_cells(results: Sequence[Result]) -> list[str]:
    """Mean of each of MECHANISMS over the results that have it; a dash where none has."""
    found = {name: [r["mechanism"][name] for r in results if name in r["mechanism"]] for name in MECHANISMS}
    return [f"{np.mean(found[name]):.{places}f}" if found[name] else "-" for name, (_, places) in MECHANISMS.items()]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error sd / sqrt(n); nan for fewer than two values."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return (float(np.mean(values)) if len(values) else math.nan), error


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """Lines of cells as a CSV file; numbers that are not whole have six digits, None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in line] for line in lines)
    return text.getvalue()
