# SPDX-License-Identifier: Apache-2.0
"""Quality by number of Gaussians and time of each densifier, against known truth: python benchmarks/densifiers.py

Short runs of configs/quickstart.yaml (ideal prior, CoGrad on) at 64 px with equal prompts, seeds and steps; `fixed` has
the first or the last number of Gaussians throughout. PSNR in dB and detail are toy/scoring.py's, aligned; a difference
is paired by object and seed, with its standard error. CPU s: of all threads of a run; unlike the
time on the clock it hardly depends on what else the machine does. --out keeps the runs (finished ones are not made
again) and writes sheet.png: the truth, then a column a variant, a row an object and seed.
What follows `--` goes to train.py in every run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

import train
from evaluation.known_truth import renderer_of_gaussians, score_run
from evaluation.run_folder import config_of_run, gaussians_of_run
from toy.raycast import View
from toy.reading import parse_prompt
from toy.truth import Renderer, renderer_of_truth
from trainer.run_log import read_steps
from utils.image_utils import write_png
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ("a cyan robot with orange arms", "a purple owl with green belly")
FIRST, LAST, STEPS = 1000, 3000, 400
SHOWN_PX = 128
CPU_SECONDS = "cpu_s.txt"  # in a run's folder, once it has finished
COMMON = {
    "image_w": 64, "image_h": 64, "iterations": STEPS, "init_num_pts": FIRST, "max_points": LAST, "save_video": "false",
    "save_process": "false", "test_ratio": 1, "save_ratio": 1, "checkpoint_every": 0, "vis_interval": 10**6,
    "quiet": "true",
    "densify_from_iter": 50, "densification_interval": 20, "densify_until_iter": 320, "opacity_reset_interval": 160,
    "densify_grad_threshold": 0.3, "percent_dense": 0.015,
}  # fmt: skip
VARIANTS: dict[str, dict[str, object]] = {
    f"fixed, {FIRST}": {"densify_until_iter": 0},
    f"fixed, {LAST}": {"densify_until_iter": 0, "init_num_pts": LAST},
    "inria": {"densifier": "inria", "max_points": 10 * LAST},
    "absgrad": {"densifier": "absgrad", "densify_grad_threshold": 0.08},
    "mcmc": {"densifier": "mcmc", "mcmc_noise": 5e3, "densification_interval": 11},  # 5 % each time
    "cadam": {"densifier": "cadam", "densify_grad_threshold": 0.1},
}


@dataclass(frozen=True)
class Outcome:
    """Of one finished run."""

    points: int
    psnr: float
    detail: float
    cpu_s: float


def train_into(folder: Path, settings: dict[str, object], words: Sequence[str]) -> None:
    """Trains into `folder`, unless a finished run is there."""
    if (folder / CPU_SECONDS).is_file():
        return
    before = time.process_time()
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    preset = ["--opt", str(ROOT / "configs" / "quickstart.yaml"), "--model_path", str(folder), "--overwrite"]
    if status := train.main([*preset, *flags, *words]):
        raise ValueError(f"the run in {folder} ended with status {status}; its message is above")
    (folder / CPU_SECONDS).write_text(f"{time.process_time() - before:.2f}\n", encoding="utf-8")


def outcome(folder: Path) -> Outcome:
    """Scores of a run, and what it took."""
    steps, scores = read_steps(folder / "log.jsonl"), score_run(folder)
    cpu_s = float((folder / CPU_SECONDS).read_text(encoding="utf-8"))
    return Outcome(steps[-1]["points"], scores["psnr"], scores["detail"], cpu_s)


def paired(made: list[Outcome], base: list[Outcome]) -> str:
    """Mean difference in PSNR, and its standard error."""
    differences = [one.psnr - other.psnr for one, other in zip(made, base, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


def sheet(rows: list[list[Renderer]]) -> np.ndarray:
    """[H, W, 3] in [0, 1]: each renderer's front quarter, rows below one another."""
    view = View(70.0, 45.0, 3.5, 0.4)
    drawn = [[np.moveaxis(render([view], SHOWN_PX)[0][0], 0, -1) for render in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in drawn])


def table(made: dict[str, list[Outcome]]) -> str:
    """A line a variant: means over objects and seeds."""
    base = next(iter(made.values()))
    lines = ["| densifier | Gaussians | PSNR | against the first row | detail | CPU s |", "|---|---|---|---|---|---|"]
    for name, runs in made.items():
        points, psnr, detail, cpu_s = (
            statistics.mean(getattr(run, key) for run in runs) for key in ("points", "psnr", "detail", "cpu_s")
        )
        against = "" if runs is base else paired(runs, base)
        lines.append(f"| {name} | {points:,.0f} | {psnr:.2f} | {against} | {detail:.3f} | {cpu_s:.0f} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    own, words = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder that keeps the runs and sheet.png")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args(own)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        made: dict[str, list[Outcome]] = {name: [] for name in args.variants}
        rows = []
        for seed in range(args.seeds):
            for k, text in enumerate(OBJECTS):
                row = [renderer_of_truth(parse_prompt(text))]
                for name in args.variants:
                    run = folder / f"{name.replace(', ', '_')}_{k}_{seed}"
                    train_into(run, {**COMMON, **VARIANTS[name], "text": text, "seed": seed, "noise_seed": seed}, words)
                    made[name].append(outcome(run))
                    print(f"{text}, seed {seed}, {name}: {made[name][-1]}", file=sys.stderr, flush=True)
                    row.append(renderer_of_gaussians(gaussians_of_run(run, config_of_run(run))))
                rows.append(row)
        if args.out is not None:
            write_png(args.out / "sheet.png", np.round(sheet(rows) * 255).astype(np.uint8))
    runs = f"{len(OBJECTS)} objects, {args.seeds} seeds, {STEPS} steps"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {runs}\n\n{table(made)}")


if __name__ == "__main__":
    program.run(main)
