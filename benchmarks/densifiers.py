# SPDX-License-Identifier: Apache-2.0
"""Quality by number of Gaussians and time of each densifier, against known truth: python benchmarks/densifiers.py

Short trainings with configs/quickstart.yaml (ideal prior, CoGrad on) at 64 px with equal prompts, seeds and steps;
`fixed` has the first or the last number of Gaussians throughout. PSNR in dB and detail are toy/scoring.py's, aligned; a
difference is paired by object and seed, with its standard error. Then the CPU time of a step with the last number of
Gaussians and a densification every ten steps, median; unlike the time on the clock it hardly depends on what else the
machine does. --out keeps the results (finished ones are not made again) and writes sheet.png: the truth, then a column
a variant, a row an object and seed. --seeds 0 measures the time alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import dataclasses
import functools
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from arguments import Config
from arguments.load import load_config
from evaluation.known_truth import renderer_of_gaussians, score_gaussians
from scene.gaussian_model import GaussianModel
from toy.raycast import View
from toy.reading import parse_prompt
from toy.truth import Renderer, renderer_of_truth
from trainer.priors import load_prior_and_prompts
from trainer.state import TrainState
from trainer.step import training_step
from utils.image_utils import write_png
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ("a cyan robot with orange arms", "a purple owl with green belly")
FIRST, LAST, STEPS = 1000, 3000, 500
TIMED_STEPS, WARM_UP = 60, 5
SHOWN_PX, SHOWN = 128, View(70.0, 45.0, 3.5, 0.4)
COMMON: dict[str, object] = {
    "image_w": 64, "image_h": 64, "iterations": STEPS, "init_num_pts": FIRST, "max_points": LAST,
    "densify_from_iter": 50, "densification_interval": 25, "densify_until_iter": 400,
    "opacity_reset_interval": 200, "percent_dense": 0.015, "densify_grad_threshold": 0.3, "device": "cpu",
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
    """Of one training."""

    points: int
    psnr: float
    detail: float


def settings_of(name: str, text: str, seed: int, folder: Path, **changes: object) -> Config:
    """Of one training."""
    settings = {**COMMON, **VARIANTS[name], "text": text, "seed": seed, "noise_seed": seed, "model_path": folder}
    settings |= changes
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return load_config(["--opt", str(ROOT / "configs" / "quickstart.yaml"), *flags])


@functools.cache
def prior_of(text: str) -> Any:
    """The prior and its prompts, which follow from text and image size."""
    return load_prior_and_prompts(settings_of(next(iter(VARIANTS)), text, 0, Path("unused")), torch.device("cpu"))


def trained(name: str, text: str, seed: int, folder: Path) -> Outcome:
    """Trains, and keeps point_cloud.ply and outcome.json in `folder`, unless they are there."""
    kept = folder / "outcome.json"
    if kept.is_file():
        return Outcome(**json.loads(kept.read_text(encoding="utf-8")))
    config, (prior, prompts) = settings_of(name, text, seed, folder), prior_of(text)
    state = TrainState.start(config, "cpu", writes=False)
    state.begin_cograd(config, prior.alphas_cumprod)
    for _ in range(STEPS):
        _, update = training_step(state, prior, prompts, config)
        if update.fault is not None:
            raise ValueError(f"{name}, {text}, seed {seed}: step {state.iteration} failed: {update.fault}")
    scores = score_gaussians(state.gaussians, parse_prompt(text), config.cameras)
    outcome = Outcome(len(state.gaussians.get_xyz), scores["psnr"], scores["detail"])
    state.gaussians.save_ply(folder / "point_cloud.ply")
    kept.write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")
    return outcome


def paired(outcomes: list[Outcome], base: list[Outcome]) -> str:
    """Mean difference in PSNR, and its standard error."""
    differences = [one.psnr - other.psnr for one, other in zip(outcomes, base, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


def sheet(rows: list[list[Renderer]]) -> np.ndarray:
    """[H, W, 3] in [0, 1]: each renderer's front quarter, rows below one another."""
    drawn = [[np.moveaxis(render([SHOWN], SHOWN_PX)[0][0], 0, -1) for render in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in drawn])


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """A line a variant: means over objects and seeds."""
    base = next(iter(outcomes.values()))
    lines = ["| densifier | Gaussians | PSNR | against the first row | detail |", "|---|---|---|---|---|"]
    for name, runs in outcomes.items():
        columns = zip(*map(dataclasses.astuple, runs))
        points, psnr, detail = (statistics.mean(column) for column in columns)
        against = "" if runs is base else paired(runs, base)
        lines.append(f"| {name} | {points:,.0f} | {psnr:.2f} | {against} | {detail:.3f} |")
    return "\n".join(lines)


def step_ms(name: str) -> float:
    """CPU milliseconds of a step, median, with LAST Gaussians, that are as many afterwards."""
    text, often = OBJECTS[0], {"densify_from_iter": 1, "densification_interval": 10}
    never = {"densify_grad_threshold": 1e9} if name == "inria" else {}
    with tempfile.TemporaryDirectory() as folder:
        config = settings_of(name, text, 0, Path(folder), **{**often, **never, "init_num_pts": LAST})
        (prior, prompts), state = prior_of(text), TrainState.start(config, "cpu", writes=False)
    state.begin_cograd(config, prior.alphas_cumprod)
    taken = []
    for _ in range(TIMED_STEPS):
        before = time.process_time()
        training_step(state, prior, prompts, config)
        taken.append(1e3 * (time.process_time() - before))
    return statistics.median(taken[WARM_UP:])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder that keeps the results and sheet.png")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = args.out or Path(temporary), []
        outcomes: dict[str, list[Outcome]] = {name: [] for name in VARIANTS}
        for seed in range(args.seeds):
            for k, text in enumerate(OBJECTS):
                row = [renderer_of_truth(parse_prompt(text))]
                for name in VARIANTS:
                    own = folder / f"{name.replace(', ', '_')}_{k}_{seed}"
                    outcomes[name].append(trained(name, text, seed, own))
                    print(f"{text}, seed {seed}, {name}: {outcomes[name][-1]}", file=sys.stderr, flush=True)
                    row.append(renderer_of_gaussians(GaussianModel.from_ply(own / "point_cloud.ply")))
                rows.append(row)
        if args.out is not None and rows:
            write_png(args.out / "sheet.png", np.round(sheet(rows) * 255).astype(np.uint8))
    runs = f"{len(OBJECTS)} objects, {args.seeds} seeds, {STEPS} steps"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {runs}\n")
    if args.seeds:
        print(f"{table(outcomes)}\n")
    print("| densifier | CPU ms a step |\n|---|---|")
    for name in list(VARIANTS)[1:]:
        print(f"| {name} | {step_ms(name):.1f} |", flush=True)


if __name__ == "__main__":
    program.run(main)
