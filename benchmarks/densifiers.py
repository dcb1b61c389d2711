# SPDX-License-Identifier: Apache-2.0
"""Quality by number of Gaussians and time of each densifier, against known truth: python benchmarks/densifiers.py

Short trainings with configs/quickstart.yaml (ideal prior, CoGrad on) at 64 px with equal prompts, seeds and steps: each
densifier with each budget, whose thresholds are lower the more Gaussians there may be, beside a fixed number. `inria`
knows no budget: its threshold decides. PSNR in dB and detail are toy/scoring.py's, aligned; a difference to the fixed
number of the same budget is paired by object and seed, with its standard error. Then the CPU time of a step with
TIMED_POINTS Gaussians and a densification every ten steps, median; unlike the time on the clock it hardly depends on
what else the machine does. --out keeps the results (finished ones are not made again) and writes sheet.png: the truth,
then a column a densifier at the middle budget, a row an object of the first seed. --seeds 0 measures the time alone.
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
from utils.general_utils import write_text_atomically
from utils.image_utils import write_png
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ("a cyan robot with orange arms", "a purple owl with green belly")
FIRST, BUDGETS, STEPS = 1000, (1500, 3000, 6000), 500
SHOWN_BUDGET = TIMED_POINTS = BUDGETS[1]
TIMED_STEPS, WARM_UP = 60, 5
SHOWN_PX, SHOWN = 128, View(70.0, 45.0, 3.5, 0.4)
COMMON: dict[str, object] = {
    "image_w": 64, "image_h": 64, "iterations": STEPS, "init_num_pts": FIRST,
    "densify_from_iter": 50, "densification_interval": 25, "densify_until_iter": 400,
    "opacity_reset_interval": 200, "percent_dense": 0.015, "device": "cpu",
}  # fmt: skip
THRESHOLDS = {"inria": 0.3, "absgrad": 0.08, "cadam": 0.1}  # of the middle budget; by one look at the quantiles
FIXED = "fixed"


@dataclass(frozen=True)
class Variant:
    """A densifier, or FIXED, that may make `budget` Gaussians."""

    densifier: str
    budget: int

    def settings(self) -> dict[str, object]:
        """Beside COMMON's."""
        if self.densifier == FIXED:
            return {"densify_until_iter": 0, "init_num_pts": self.budget, "max_points": self.budget}
        settings: dict[str, object] = {"densifier": self.densifier, "max_points": self.budget}
        if self.densifier == "mcmc":  # 5 % more each time: from 1,000 to 3,070 in steps of 15, to 8,150 in steps of 8
            return settings | {"mcmc_noise": 5e3, "densification_interval": 15 if self.budget <= 3 * FIRST else 8}
        if self.densifier == "inria":
            settings["max_points"] = 100 * self.budget  # where the run would stop
        return settings | {"densify_grad_threshold": THRESHOLDS[self.densifier] * SHOWN_BUDGET / self.budget}


DENSIFIERS = (FIXED, *THRESHOLDS, "mcmc")
VARIANTS = tuple(Variant(densifier, budget) for budget in BUDGETS for densifier in DENSIFIERS)


@dataclass(frozen=True)
class Outcome:
    """Of one training."""

    points: int
    psnr: float
    detail: float


def settings_of(variant: Variant, text: str, seed: int, folder: Path, **changes: object) -> Config:
    """Of one training."""
    settings = COMMON | variant.settings() | {"text": text, "seed": seed, "noise_seed": seed, "model_path": folder}
    settings |= changes
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return load_config(["--opt", str(ROOT / "configs" / "quickstart.yaml"), *flags])


@functools.cache
def prior_of(text: str) -> Any:
    """The prior and its prompts, which follow from text and image size."""
    return load_prior_and_prompts(settings_of(VARIANTS[0], text, 0, Path("unused")), torch.device("cpu"))


def trained(variant: Variant, text: str, seed: int, folder: Path) -> Outcome:
    """Trains, and keeps point_cloud.ply and outcome.json in `folder`, unless they are there."""
    kept = folder / "outcome.json"
    if kept.is_file():
        return Outcome(**json.loads(kept.read_text(encoding="utf-8")))
    config, (prior, prompts) = settings_of(variant, text, seed, folder), prior_of(text)
    state = TrainState.start(config, "cpu", writes=False)
    state.begin_cograd(config, prior.alphas_cumprod)
    for _ in range(STEPS):
        _, update = training_step(state, prior, prompts, config)
        if update.fault is not None:
            raise ValueError(f"{variant}, {text}, seed {seed}: step {state.iteration} failed: {update.fault}")
    scores = score_gaussians(state.gaussians, parse_prompt(text), config.cameras)
    outcome = Outcome(len(state.gaussians.get_xyz), scores["psnr"], scores["detail"])
    state.gaussians.save_ply(folder / "point_cloud.ply")
    write_text_atomically(kept, json.dumps(dataclasses.asdict(outcome)))
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


def table(outcomes: dict[Variant, list[Outcome]]) -> str:
    """A line a variant: means over objects and seeds."""
    lines = ["| budget | densifier | Gaussians | PSNR | against fixed | detail |", "|---|---|---|---|---|---|"]
    for variant, runs in outcomes.items():
        columns = zip(*map(dataclasses.astuple, runs))
        points, psnr, detail = (statistics.mean(column) for column in columns)
        base = outcomes[Variant(FIXED, variant.budget)]
        against = "" if runs is base else paired(runs, base)
        name = f"{variant.budget:,} | {variant.densifier}"
        lines.append(f"| {name} | {points:,.0f} | {psnr:.2f} | {against} | {detail:.3f} |")
    return "\n".join(lines)


def step_ms(densifier: str) -> float:
    """CPU milliseconds of a step, median, with TIMED_POINTS Gaussians, that are as many afterwards."""
    text, often = OBJECTS[0], {"densify_from_iter": 1, "densification_interval": 10, "init_num_pts": TIMED_POINTS}
    if densifier == "inria":
        often["densify_grad_threshold"] = 10**9
    with tempfile.TemporaryDirectory() as folder:
        config = settings_of(Variant(densifier, TIMED_POINTS), text, 0, Path(folder), **often)
        (prior, prompts), state = prior_of(text), TrainState.start(config, "cpu", writes=False)
    state.begin_cograd(config, prior.alphas_cumprod)
    taken = []
    for _ in range(TIMED_STEPS):
        before = time.process_time()
        training_step(state, prior, prompts, config)
        taken.append(1e3 * (time.process_time() - before))
    return statistics.median(taken[WARM_UP:])


def measured(folder: Path, seeds: int) -> tuple[dict[Variant, list[Outcome]], list[list[Renderer]]]:
    """Of each variant, and the sheet's rows; every training is in a folder of `folder`."""
    outcomes: dict[Variant, list[Outcome]] = {variant: [] for variant in VARIANTS}
    rows = []
    for seed in range(seeds):
        for k, text in enumerate(OBJECTS):
            row = [renderer_of_truth(parse_prompt(text))]
            for variant in VARIANTS:
                own = folder / f"{variant.densifier}_{variant.budget}_{k}_{seed}"
                outcomes[variant].append(trained(variant, text, seed, own))
                print(f"{text}, seed {seed}, {variant}: {outcomes[variant][-1]}", file=sys.stderr, flush=True)
                if variant.budget == SHOWN_BUDGET:
                    row.append(renderer_of_gaussians(GaussianModel.from_ply(own / "point_cloud.ply")))
            if seed == 0:
                rows.append(row)
    return outcomes, rows


@program.refuses("densifiers", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder that keeps the results and sheet.png")
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        outcomes, rows = measured(args.out or Path(temporary), args.seeds)
        if args.out is not None and rows:
            write_png(args.out / "sheet.png", np.round(sheet(rows) * 255).astype(np.uint8))
    runs = f"{len(OBJECTS)} objects, {args.seeds} seeds, {STEPS} steps"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {runs}\n")
    if args.seeds:
        print(f"{table(outcomes)}\n")
    print("| densifier | CPU ms a step |\n|---|---|")
    for densifier in DENSIFIERS:
        print(f"| {densifier} | {step_ms(densifier):.1f} |", flush=True)


if __name__ == "__main__":
    program.run(main)
