# SPDX-License-Identifier: Apache-2.0
"""Is the toy world's yardstick right? Scores scenes of known truth: python -m tests.toy.calibration --out FOLDER

Every object with a front, in scenes that are right, and in scenes with several fronts or none; each turned by a random
yaw and degraded. Writes scenes.csv, a line a scene, and prints Markdown: how many right scenes are called clean
(specificity) and how many wrong ones are not (sensitivity), with Wilson's 95 % intervals.
"""

from __future__ import annotations

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import csv
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.janus import wilson
from evaluation.known_truth import renderer_of_gaussians
from tests.toy.calibration.scenes import BLURS, FITTED, FOV_RAD, KINDS, RADIUS, at_yaw, degraded, fitted
from toy import fronts
from toy.captions import DEFAULT_COLOURS, Spec
from toy.objects import ONE_SIDED
from toy.truth import renderer_of_truth

SHARES = (0.30, 0.325, 0.35, 0.375, 0.40, 0.45)


@dataclass(frozen=True)
class Row:
    """A scene and its result."""

    object: str
    kind: str
    degradation: str
    yaw_deg: int
    share: float
    count: int
    clean: bool
    blur: float


def rows_of(class_name: str, fit: bool) -> list[Row]:
    """Every scene of one object; `fit`: the fitted ones, else the images."""
    spec = Spec(class_name, *DEFAULT_COLOURS[class_name])
    truth = renderer_of_truth(spec)
    rng = np.random.default_rng(zlib.crc32(class_name.encode()))
    rows: list[Row] = []
    for name in FITTED if fit else KINDS:
        base = KINDS[name].of(truth)
        degradations = {f"blur {blur:g}": degraded(base, blur) for blur in BLURS}
        degradations["blur 0.01, contrast 1.3, noise 0.05"] = degraded(base, 0.01, 1.3, 0.05)
        if fit:
            degradations = {"fitted": renderer_of_gaussians(fitted(base, seed=len(rows)))}
        for degradation, scene in degradations.items():
            yaw_deg = int(rng.integers(360))
            found = fronts.scan(at_yaw(scene, yaw_deg), spec, RADIUS, FOV_RAD)
            seen = fronts.fronts_of(found.assigned_deg)
            rows.append(Row(class_name, name, degradation, yaw_deg, seen.share, seen.count, seen.clean, found.blur))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The tables of the calibration."""
    degradations = list(dict.fromkeys(row.degradation for row in rows))
    lines = ["| scene | " + " | ".join(degradations) + " |", "|---" * (len(degradations) + 1) + "|"]
    for kind in KINDS:
        cells = [_cell([r for r in rows if (r.kind, r.degradation) == (kind, d)]) for d in degradations]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", "| clean means | specificity | sensitivity |", "|---|---|---|"]
    for name, clean in _rules().items():
        right = [clean(row) for row in rows if KINDS[row.kind].right is True]
        wrong = [not clean(row) for row in rows if KINDS[row.kind].right is False]
        lines.append(f"| {name} | {_share(right)} | {_share(wrong)} |")
    known = [row for row in rows if KINDS[row.kind].fronts is not None]
    exact = [row.count == KINDS[row.kind].fronts for row in known]
    return "\n".join([*lines, "", f"Fronts counted exactly, where a scene has separate ones: {_share(exact)}."])


def _rules() -> dict[str, Callable[[Row], bool]]:
    """What "clean" may mean: by the count, by the share, by both."""
    low = fronts.CLEAN_SHARE[0]

    def share_below(high: float) -> Callable[[Row], bool]:
        return lambda row: low <= row.share <= high

    def both_below(high: float) -> Callable[[Row], bool]:
        return lambda row: row.count == 1 and low <= row.share <= high

    rules: dict[str, Callable[[Row], bool]] = {"one front by count": lambda row: row.count == 1}
    rules |= {f"share {low:g} to {high:g}": share_below(high) for high in SHARES}
    return rules | {f"both, share {low:g} to {high:g}": both_below(high) for high in SHARES}


def _cell(rows: Sequence[Row]) -> str:
    """Clean ones of all, and the range of the shares."""
    if not rows:
        return "-"
    shares = [row.share for row in rows]
    return f"{sum(row.clean for row in rows)}/{len(rows)} ({min(shares):.2f}..{max(shares):.2f})"


def _share(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)}/{len(hits)} ({low:.3f}..{high:.3f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of scenes.csv")
    parser.add_argument("--objects", nargs="+", choices=ONE_SIDED, default=ONE_SIDED)
    parser.add_argument("--no_fit", action="store_true", help="leave the fitted scenes out")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    args.out.mkdir(parents=True, exist_ok=True)
    for class_name in args.objects:
        for fit in (False,) if args.no_fit else (False, True):
            rows += rows_of(class_name, fit)
        with (args.out / "scenes.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    program.run(main)
