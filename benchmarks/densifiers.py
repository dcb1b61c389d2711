# SPDX-License-Identifier: Apache-2.0
"""Quality by number of Gaussians and time of each densifier, against known truth: python benchmarks/densifiers.py

Short runs of configs/quickstart.yaml (ideal prior, CoGrad on) at 64 px with equal prompts, seeds and steps; `fixed` has
the first or the last number of Gaussians throughout. PSNR in dB and detail are toy/scoring.py's, aligned; a difference
is paired by object and seed, with its standard error. CPU s: of all threads of a run, its start included; unlike the
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
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

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
FIRST, LAST, STEPS = 1000, 3000, 500
SHOWN_PX = 128
CPU_SECONDS = "cpu_s.txt"  # in a run's folder, once it has finished
COMMON = {
    "image_w": 64, "image_h": 64, "iterations": STEPS, "init_num_pts": FIRST, "max_points": LAST, "save_video": "false",
    "save_process": "false", "test_ratio": 1, "save_ratio": 1, "checkpoint_every": 0, "vis_interval": 10**6,
    "quiet": "true",
    "densify_from_iter": 50, "densification_interval": 25, "densify_until_iter": 400, "opacity_reset_interval": 200,
    "densify_grad_threshold": 0.3, "percent_dense": 0.015,
}  # fmt: skip
VARIANTS: dict[str, dict[str, object]] = {
    f"fixed, {FIRST}": {"densify_until_iter": 0},
    f"fixed, {LAST}": {"densify_until_iter": 0, "init_num_pts": LAST},
    "inria": {"densifier": "inria", "max_points": 10 * LAST},
    "absgrad": {"densifier": "absgrad", "densify_grad_threshold": 0.08},
    "mcmc": {"densifier": "mcmc", "mcmc_noise": 5e3, "densification_interval": 15},  # 5 % each time
    "cadam": {"densifier": "cadam", "densify_grad_threshold": 0.1},
}


@dataclass(frozen=True)
class Outcome:
    """Of one finished run."""

    points: int
    psnr: float
    detail: float
    cpu_s: float


def make(folder: Path, settings: dict[str, object], words: Sequence[str]) -> None:
    """Trains into `folder`, unless a finished run is there."""
    if (folder / CPU_SECONDS).is_file():
        return
    before = _cpu_s()
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, str(ROOT / "train.py"), "--opt", str(ROOT / "configs" / "quickstart.yaml")]
    subprocess.run([*command, "--model_path", str(folder), "--overwrite", *flags, *words], check=True)
    (folder / CPU_SECONDS).write_text(f"{_cpu_s() - before:.2f}\n", encoding="utf-8")


def _cpu_s() -> float:
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def outcome(folder: Path) -> Outcome:
    """Scores of a run, and what it took."""
    steps, scores = read_steps(folder / "log.jsonl"), score_run(folder)
    cpu_s = float((folder / CPU_SECONDS).read_text(encoding="utf-8"))
    return Outcome(steps[-1]["points"], scores["psnr"], scores["detail"], cpu_s)


def paired(found: list[Outcome], base: list[Outcome]) -> str:
    """Mean difference in PSNR, and its standard error."""
    differences = [one.psnr - other.psnr for one, other in zip(found, base, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


def sheet(rows: list[list[Renderer]]) -> np.ndarray:
    """[H, W, 3] in [0, 1]: each renderer's front quarter, rows below one another."""
    view = View(70.0, 45.0, 3.5, 0.4)
    drawn = [[np.moveaxis(render([view], SHOWN_PX)[0][0], 0, -1) for render in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in drawn])


def table(found: dict[str, list[Outcome]]) -> str:
    """A line a variant: means over objects and seeds."""
    base = next(iter(found.values()))
    lines = ["| densifier | Gaussians | PSNR | against the first row | detail | CPU s |", "|---|---|---|---|---|---|"]
    for name, runs in found.items():
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
        found: dict[str, list[Outcome]] = {name: [] for name in args.variants}
        rows = []
        for k, text in enumerate(OBJECTS):
            for seed in range(args.seeds):
                row = [renderer_of_truth(parse_prompt(text))]
                for name in args.variants:
                    run = folder / f"{name.replace(', ', '_')}_{k}_{seed}"
                    make(run, {**COMMON, **VARIANTS[name], "text": text, "seed": seed, "noise_seed": seed}, words)
                    found[name].append(outcome(run))
                    print(f"{text}, seed {seed}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
                    row.append(renderer_of_gaussians(gaussians_of_run(run, config_of_run(run))))
                rows.append(row)
        if args.out is not None:
            write_png(args.out / "sheet.png", np.round(sheet(rows) * 255).astype(np.uint8))
    runs = f"{len(OBJECTS)} objects, {args.seeds} seeds, {STEPS} steps"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {runs}\n\n{table(found)}")


if __name__ == "__main__":
    program.run(main)
