# SPDX-License-Identifier: Apache-2.0
"""Are the numbers of a reproduction those of its clouds? Every score is computed again from what is in the folder."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from evaluation import MetricUnavailable
from evaluation.automatic_janus import flag_by_order
from evaluation.experiments.runs import MAX_RESULT_BYTES, Result, read_folder
from evaluation.janus_sheet import labelled_rates
from evaluation.known_truth import score_run
from evaluation.reproduction.summary import assets_csv, summary
from evaluation.run_folder import config_of_run, gaussians_of_run, score_runs
from trainer.run_records import read_object

KINDS = {"variant": str, "prompt": str, "seed": int, "prior": str, "known_truth": dict | None, "metrics": dict,
         "janus_order": float | None}  # fmt: skip
"""What a run's JSON has of a reproduction."""
ASSET = ("variant", "prompt", "seed")
ENDS = ("from", "to")
TOLERANCE = 1e-3
"""Of a number that is no count, relative to the larger of it and 1: rounding differs between machines."""


@dataclass
class Checked:
    """`numbers` were computed again; a sentence for each that differs, and for each that could not be."""

    numbers: int = 0
    differences: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def compare(self, what: str, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Numbers and truth values, by name; one that either side alone has differs, unless `stored` lacks its name."""
        for name in dict.fromkeys([*stored, *(name for name, value in now.items() if value is not None)]):
            if name not in stored:
                self.unchecked.append(f"{what}: {name} is {now[name]} and is not stored; make it with --report_only")
                continue
            value = stored[name]
            if isinstance(value, bool | int | float) or isinstance(now.get(name), bool | int | float):
                self.numbers += 1
                if not _same(value, now.get(name)):
                    self.differences.append(f"{what}: {name} is stored as {value}, and is {now.get(name)}")


def verify(out: Path, device: torch.device, weights: Path | None) -> Checked:
    """Every finished run of the folder, and the table. Raises ValueError for a folder without any."""
    results = read_folder(out)
    if not results:
        raise ValueError(f"{out} holds no results; expected a folder that tools/reproduce.py --out wrote")
    checked = Checked()
    results = [result for result in results if _is_whole(out, result, checked)]
    kept = [result for result in results if _has_cloud(out, result, checked)]
    for result in tqdm(kept, disable=None):
        _check_run(out / "runs" / result["name"], result, checked)
    _check_metrics(out, kept, checked, device, weights)
    if results:
        _check_table(out, results, checked)
        _check_lines(out, results, checked)
    return checked


def _is_whole(out: Path, result: Result, checked: Checked) -> bool:
    """Whether a run's JSON has what a reproduction writes, so far as it is read here."""
    lacking = [name for name, kind in KINDS.items() if not isinstance(result.get(name, ...), kind)]
    if lacking:
        path = out / f"{result['name']}.json"
        checked.unchecked.append(f"{path}: no valid {', '.join(lacking)}; delete it and make the run again")
    return not lacking


def _same(stored: Any, now: Any) -> bool:
    if not all(isinstance(value, bool | int | float) for value in (stored, now)):
        return False
    if isinstance(stored, bool) != isinstance(now, bool):
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
    if result["known_truth"] is not None:
        checked.compare(result["name"], result["known_truth"], score_run(run))
    config = config_of_run(run)
    gaussians = gaussians_of_run(run, config)
    value = flag_by_order(gaussians, config).value
    now = {"points": len(gaussians.get_xyz), "janus_order": None if math.isnan(value) else value}
    checked.compare(result["name"], {name: result[name] for name in now if name in result}, now)


def _check_metrics(
    out: Path, results: list[Result], checked: Checked, device: torch.device, weights: Path | None
) -> None:
    """A metric at a time; one without weights is reported once."""
    for name in dict.fromkeys(name for result in results for name in result["metrics"]):
        own = [result for result in results if name in result["metrics"]]
        try:
            for result, now in zip(own, score_runs(name, [out / "runs" / r["name"] for r in own], device, weights)):
                checked.compare(f"{result['name']}, {name}", result["metrics"][name], now)
        except MetricUnavailable as reason:
            checked.unchecked.append(f"{name}: {reason}")


def _check_table(out: Path, results: list[Result], checked: Checked) -> None:
    """Means, deviations and Janus rates in results.json against those of the runs' own files and of people's labels."""
    path = out / "results.json"
    if not path.is_file():
        checked.unchecked.append(f"{path} does not exist; make it with --report_only")
        return
    rows = read_object(path, MAX_RESULT_BYTES).get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "variant" in row for row in rows):
        checked.unchecked.append(f"{path} holds no rows of variants; make it with --report_only")
        return
    labelled = labelled_rates(out / "janus", [result["name"] for result in results], checked.unchecked.append)
    now = {row["variant"]: row for row in summary(results, results[0]["prior"], labelled)}
    for row in rows:
        own = _numbers(now.get(row["variant"], {"assets": 0}))
        stored = {name: value for name, value in _numbers(row).items() if name in own or row["variant"] in now}
        checked.compare(f"table, {row['variant']}", stored, own)


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns by name, the ends of its intervals apart; without texts, and without what the paper says."""
    intervals = {name: ends for name, ends in row.items() if isinstance(ends, list)}
    apart = {f"{name} {end}": value for name, ends in intervals.items() for end, value in zip(ENDS, ends)}
    own = {name: value for name, value in row.items() if not isinstance(value, str | list)}
    return {name: value for name, value in (own | apart).items() if not name.endswith("_paper")}


def _check_lines(out: Path, results: list[Result], checked: Checked) -> None:
    """Every number of assets.csv, which may be of some of the runs, against the runs' own files."""
    path = out / "assets.csv"
    if not path.is_file():
        checked.unchecked.append(f"{path} does not exist; make it with --report_only")
        return
    now, columns = _assets(io.StringIO(assets_csv(results, results[0]["prior"])))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            stored, header = _assets(file)
    except (ValueError, csv.Error) as problem:
        checked.unchecked.append(f"{path} cannot be read: {problem}; make it with --report_only")
        return
    for name in sorted(columns - header):
        checked.unchecked.append(f"{path} has no column {name}; make it with --report_only")
    for asset, cells in stored.items():
        for name in sorted((cells.keys() | now.get(asset, {}).keys()) & header):
            cell = cells.get(name)
            checked.numbers += 1
            if cell != (given := now.get(asset, {}).get(name)):
                line = f"assets.csv, {', '.join(asset)}"
                checked.differences.append(f"{line}: {name} is {cell}, and the run's {given}")


def _assets(lines: Iterable[str]) -> tuple[dict[tuple[str, ...], dict[str, str]], set[str]]:
    """(variant, prompt, seed) -> the other cells by column, empty ones left out; and the columns. Raises ValueError."""
    reader = csv.DictReader(lines)
    header = set(reader.fieldnames or ())
    if not header.issuperset(ASSET):
        raise ValueError(f"its first line is not a header with {', '.join(ASSET)}, divided by commas")
    found = {}
    for row in reader:
        if None in row or None in (asset := tuple(row.pop(name) for name in ASSET)):
            raise ValueError(f"line {reader.line_num} has other columns than the first line")
        found[asset] = {name: cell for name, cell in row.items() if cell}
    if not found:
        raise ValueError("it holds no asset")
    return found, header - set(ASSET)
