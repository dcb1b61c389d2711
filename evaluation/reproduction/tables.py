# SPDX-License-Identifier: Apache-2.0
"""The numbers of a reproduction: a row a method beside the paper's, a line an asset, as values and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation import METRICS
from evaluation.janus import Rate
from evaluation.reproduction.plan import METHODS
from evaluation.sweep.runs import Result

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
            return (result["known_truth"] or {}).get(self.key)
        score = result["metrics"].get(self.key.removesuffix("_std"))
        return None if score is None else score["std" if self.key.endswith("_std") else "mean"]


@dataclass(frozen=True)
class Cell:
    """Mean over the assets; `seed_sd`: deviation between seeds of their means over the prompts, nan for one seed."""

    mean: float
    seed_sd: float
    count: int


def columns(prior: str) -> list[Column]:
    """The paper's, and where there is a known truth the scores against it."""
    found = [Column(key, TRUTH_TITLES[key], decimals) for key, decimals in TRUTH.items()] if prior == "toy" else []
    for name, kind in METRICS.items():
        found.append(Column(name, kind.title, 2 if kind.has_std else 4))
        if kind.has_std:
            found.append(Column(f"{name}_std", f"{kind.title} std", 2))
    return found


def cell(results: Sequence[Result], column: Column) -> Cell | None:
    """None where no asset has the number."""
    by_seed: dict[int, list[float]] = {}
    for result in results:
        value = column.of(result)
        if value is not None:
            by_seed.setdefault(result["seed"], []).append(float(value))
    values = [value for seed in by_seed.values() for value in seed]
    if not values:
        return None
    means = [np.mean(seed) for seed in by_seed.values()]
    return Cell(float(np.mean(values)), float(np.std(means, ddof=1)) if len(means) > 1 else math.nan, len(values))


def summary(results: Sequence[Result], prior: str, rates: Mapping[str, Rate]) -> list[dict[str, Any]]:
    """A mapping a method, plain values only: title, table, assets, and for each column ours and the paper's."""
    rows = []
    for name in [name for name in METHODS if any(result["method"] == name for result in results)]:
        method, mine = METHODS[name], [result for result in results if result["method"] == name]
        facts = {"title": method.title_on(prior), "table": method.table, "assets": len(mine)}
        row: dict[str, Any] = {"method": name, **facts}
        for column in columns(prior):
            found = cell(mine, column)
            row[column.key] = None if found is None else found.mean
            row[f"{column.key}_seed_sd"] = None if found is None or math.isnan(found.seed_sd) else found.seed_sd
            row[f"{column.key}_paper"] = method.paper_on(prior).get(column.key)
        rate = rates.get(name)
        row["janus"] = None if rate is None or not rate.counted else rate.value
        row["janus_interval"] = None if rate is None or not rate.counted else list(rate.interval)
        row["janus_paper"] = method.paper_on(prior).get("janus")
        rows.append(row)
    return rows


def assets_csv(results: Sequence[Result], prior: str) -> str:
    """A line an asset; a number that was not measured is left empty."""
    header = ["method", "prompt", "seed", "train_s", "cpu_s", "steps", "points", "peak_gb"]
    own = columns(prior)
    lines = [[str(result[name]) for name in header] + [_told(c.of(result)) for c in own] for result in results]
    return _csv([header + [c.key for c in own], *lines])


def summary_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a method."""
    header = list(rows[0]) if rows else []
    return _csv([header, *([_told(row[name]) for name in header] for row in rows)])


def _told(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
