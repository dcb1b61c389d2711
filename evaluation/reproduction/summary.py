# SPDX-License-Identifier: Apache-2.0
"""The numbers of a reproduction: a row a variant beside the paper's, a line an asset, as values and as CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation import METRICS
from evaluation.automatic_janus import flag_of_order, rate_of
from evaluation.experiments.grid import TOY_PRIORS, VARIANTS
from evaluation.experiments.runs import Result
from evaluation.experiments.tables import by_variant, csv_text
from evaluation.janus import Rate

TRUTH = {"psnr": 2, "ssim": 3, "iou": 3, "detail": 3, "front_share": 2, "clean": 2}
"""The toy world's scores, aligned in yaw -> decimals. clean, exactly one front, is a proxy of Janus, and called so."""
TRUTH_TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "iou": "IoU", "detail": "detail", "front_share": "front share"} | {
    "clean": "clean (Janus proxy)"
}


@dataclass(frozen=True)
class Column:
    """One number of an asset."""

    key: str
    title: str
    decimals: int

    def of(self, result: Result) -> float | None:
        """None where it was not measured, or does not exist for this object."""
        if self.key in TRUTH:
            value = (result["known_truth"] or {}).get(self.key)
            return None if value is None else float(value)
        score = result["metrics"].get(self.key.removesuffix("_std"))
        return None if score is None else score["std" if self.key.endswith("_std") else "mean"]


def columns(prior: str, results: Sequence[Result]) -> list[Column]:
    """The paper's, other metrics that were measured, and where there is a known truth the scores against it."""
    found = [Column(key, TRUTH_TITLES[key], decimals) for key, decimals in TRUTH.items()] if prior in TOY_PRIORS else []
    measured = {name for result in results for name in result["metrics"]}
    for name, kind in [(n, k) for n, k in METRICS.items() if k.in_paper or n in measured]:
        found.append(Column(name, kind.title, 2 if kind.has_std else 4))
        if kind.has_std:
            found.append(Column(f"{name}_std", f"{kind.title} std", 2))
    return found


def mean_and_spread(results: Sequence[Result], column: Column) -> tuple[float | None, float | None]:
    """Mean over the assets, and the deviation between seeds of their means over the prompts; None: not measured."""
    by_seed: dict[int, list[float]] = {}
    for result in results:
        value = column.of(result)
        if value is not None:
            by_seed.setdefault(result["seed"], []).append(value)
    means = [np.mean(values) for values in by_seed.values()]
    if not means:
        return None, None
    mean = float(np.mean([value for values in by_seed.values() for value in values]))
    return mean, float(np.std(means, ddof=1)) if len(means) > 1 else None


def summary(results: Sequence[Result], prior: str, rates: Mapping[str, Rate]) -> list[dict[str, Any]]:
    """A mapping a variant, plain values only: title, table, assets, and for each column ours and the paper's."""
    rows = []
    own, shown = by_variant(results), columns(prior, results)
    for name in [name for name in VARIANTS if name in own]:
        variant = VARIANTS[name]
        paper = variant.paper_on(prior)
        row: dict[str, Any] = {"variant": name, "title": variant.title_on(prior), "table": variant.table}
        row["assets"] = len(own[name])
        for column in shown:
            row[column.key], row[f"{column.key}_seed_sd"] = mean_and_spread(own[name], column)
            row[f"{column.key}_paper"] = paper.get(column.key)
        rate = rates.get(name)
        row["janus"] = None if rate is None or not rate.counted else rate.value
        row["janus_interval"] = None if rate is None or not rate.counted else list(rate.interval)
        row["janus_paper"] = paper.get("janus")
        automatic = automatic_rate(own[name])
        row["janus_order"] = automatic.value if automatic.counted else None
        row["janus_order_interval"] = list(automatic.interval) if automatic.counted else None
        rows.append(row)
    return rows


def automatic_rate(results: Sequence[Result]) -> Rate:
    """By the order of the views, of the runs that it was measured of."""
    return rate_of([flag_of_order(result["janus_order"]) for result in results])


def assets_csv(results: Sequence[Result], prior: str) -> str:
    """A line an asset; a number that was not measured is left empty."""
    header = ["variant", "prompt", "seed", "train_s", "cpu_s", "steps", "samples", "points", "peak_gb"]
    own = columns(prior, results)
    lines = [[*(result.get(name) for name in header), *(column.of(result) for column in own)] for result in results]
    return csv_text([[*header, *(column.key for column in own)], *lines])


def summary_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a variant."""
    return csv_text([list(rows[0]), *(list(row.values()) for row in rows)])
