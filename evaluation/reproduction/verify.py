# SPDX-License-Identifier: Apache-2.0
"""Are the numbers of a reproduction those of its clouds? Every score is computed again from what is in the folder."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from evaluation import MetricUnavailable, load_metric
from evaluation.automatic_janus import flag_by_order
from evaluation.experiments.runs import MAX_RESULT_BYTES, Result, read_folder
from evaluation.known_truth import score_run
from evaluation.reproduction.summary import assets_csv, columns, mean_and_spread
from evaluation.run_folder import config_of_run, gaussians_of_run, score_scene
from trainer.run_records import read_object

TOLERANCE = 1e-3
"""Of a number that is no count, relative to the larger of it and 1: rounding differs between machines."""


@dataclass
class Checked:
    """`numbers` were computed again; a sentence for each that differs, and for each that could not be."""

    numbers: int = 0
    differences: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def compare(self, what: str, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Numbers and truth values of `stored`, by name; a name that `now` lacks differs."""
        for name, value in stored.items():
            if isinstance(value, bool | int | float):
                self.numbers += 1
                if not _same(value, now.get(name)):
                    self.differences.append(f"{what}: {name} is stored as {value}, and is {now.get(name)}")


def verify(out: Path, device: torch.device, weights: Path | None) -> Checked:
    """Every finished run of the folder, and the table. Raises ValueError for a folder without any."""
    results = read_folder(out)
    if not results:
        raise ValueError(f"{out} holds no results; expected a folder that tools/reproduce.py --out wrote")
    checked = Checked()
    kept = [result for result in results if _has_cloud(out, result, checked)]
    for result in tqdm(kept, disable=None):
        _check_run(out / "runs" / result["name"], result, checked)
    _check_metrics(out, kept, checked, device, weights)
    _check_table(out, results, checked)
    _check_lines(out, results, checked)
    return checked


def _same(stored: float, now: Any) -> bool:
    if not isinstance(now, bool | int | float) or isinstance(stored, bool) != isinstance(now, bool):
        return False
    if isinstance(stored, int) and isinstance(now, int):
        return stored == now  # counts, and truth values
    if math.isnan(stored) or math.isnan(now):
        return math.isnan(stored) and math.isnan(now)
    return abs(stored - now) <= TOLERANCE * max(1.0, abs(stored))


def _has_cloud(out: Path, result: Result, checked: Checked) -> bool:
    run = out / "runs" / result["name"]
    try:
        gaussians_of_run(run, config_of_run(run))
    except ValueError as problem:
        checked.unchecked.append(f"{result['name']}: {problem}")
        return False
    return True


def _check_run(run: Path, result: Result, checked: Checked) -> None:
    """What needs no weights: the known truth, the order of the views, the number of Gaussians."""
    if result["known_truth"]:
        checked.compare(result["name"], result["known_truth"], score_run(run))
    config = config_of_run(run)
    gaussians = gaussians_of_run(run, config)
    now: dict[str, Any] = {"points": len(gaussians.get_xyz)}
    if result.get("janus_order") is not None:
        now["janus_order"] = flag_by_order(gaussians, config).value
    checked.compare(result["name"], {name: result[name] for name in now if name in result}, now)


def _check_metrics(
    out: Path, results: list[Result], checked: Checked, device: torch.device, weights: Path | None
) -> None:
    """A metric at a time; one without weights is reported once."""
    for name in dict.fromkeys(name for result in results for name in result["metrics"]):
        try:
            metric = load_metric(name, device, weights)
        except MetricUnavailable as reason:
            checked.unchecked.append(f"{name}: {reason}")
            continue
        for result in [result for result in results if name in result["metrics"]]:
            now = score_scene(out / "runs" / result["name"], name, metric, device)
            checked.compare(f"{result['name']}, {name}", result["metrics"][name], now)


def _check_table(out: Path, results: list[Result], checked: Checked) -> None:
    """Means and deviations in results.json against those of the runs' own files."""
    path = out / "results.json"
    if not path.is_file():
        checked.unchecked.append(f"{path} does not exist; make it with --report_only")
        return
    for row in read_object(path, MAX_RESULT_BYTES)["rows"]:
        own = [result for result in results if result["variant"] == row["variant"]]
        checked.compare(f"table, {row['variant']}", *_row(row, own))


def _row(row: Mapping[str, Any], own: list[Result]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the table stores of its columns, and what the runs give."""
    now: dict[str, Any] = {"assets": len(own)}
    for key, mean, spread in _means(own):
        now |= {key: mean, f"{key}_seed_sd": spread}
    return {name: row[name] for name in now if name in row}, now


def _means(own: list[Result]) -> Iterator[tuple[str, float | None, float | None]]:
    for column in columns(own[0]["prior"] if own else "sd", own):
        yield column.key, *mean_and_spread(own, column)


def _check_lines(out: Path, results: list[Result], checked: Checked) -> None:
    """Every number of assets.csv, which may be of some of the runs, against the runs' own files."""
    path = out / "assets.csv"
    if not path.is_file():
        checked.unchecked.append(f"{path} does not exist; make it with --report_only")
        return
    now = _assets(io.StringIO(assets_csv(results, results[0]["prior"])))
    with path.open(encoding="utf-8", newline="") as file:
        for asset, cells in _assets(file).items():
            for name, cell in cells.items():
                checked.numbers += 1
                if cell != (given := now.get(asset, {}).get(name)):
                    line = f"assets.csv, {', '.join(asset)}"
                    checked.differences.append(f"{line}: {name} is {cell}, and the run's {given}")


def _assets(lines: Iterable[str]) -> dict[tuple[str, ...], dict[str, str]]:
    """(variant, prompt, seed) -> the other cells by column; empty ones left out."""
    found = {}
    for row in csv.DictReader(lines):
        asset = tuple(row.pop(name) for name in ("variant", "prompt", "seed"))
        found[asset] = {name: cell for name, cell in row.items() if cell}
    return found
