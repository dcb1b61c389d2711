# SPDX-License-Identifier: Apache-2.0
"""What configs/fine.yaml gains by each of its parts, and what else was tried: python benchmarks/fine.py --out FOLDER

Trainings with configs/fine.yaml, each with one change, scored against the known truth in images of 128 and 256 px,
aligned (toy/scoring.py); CPU seconds of the start (prior and points) and of the steps, without outputs. --out keeps the
clouds and results; finished trainings are not made again. --only NAME... makes some of VARIANTS, --objects N the first
N of OBJECTS; --short has half the steps and 128 px, for the table of what was tried. --prior trains nothing: what the
prior predicts from the truth itself, noised, at POSES that it has no image of, without the text's guidance.
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
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from arguments import Config
from arguments.load import load_config
from evaluation.known_truth import score_gaussians
from toy.compose import compose
from toy.raycast import View, render_gbuffers
from toy.reading import parse_prompt
from toy.similarity import high_pass, masked_ncc, psnr
from trainer.priors import load_prior_and_prompts
from trainer.state import TrainState
from trainer.step import training_step
from utils.general_utils import write_text_atomically
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ("a cyan robot with orange arms", "a red mushroom with white stem", "a purple owl with green belly")
DENSIFIED: dict[str, object] = {
    "init_num_pts": 10000, "max_points": 25000, "densify_from_iter": 50, "densification_interval": 25,
    "densify_until_iter": 350,
}  # fmt: skip
SPLIT: dict[str, object] = {**DENSIFIED, "opacity_reset_interval": 1000, "percent_dense": 0.015}
VARIANTS: dict[str, dict[str, object]] = {
    "fine": {},
    "480 images": {"ideal_images": 480},
    "distances of 3.45 to 3.55": {"distance_range": (3.45, 3.55)},
    "t from 773 to 559": {"prog_range": (0.2, 0.34), "t_jitter": 150},
    "128 px": {"image_w": 128, "image_h": 128},
    "10,000 Gaussians": {"init_num_pts": 10000},
    "half the last learning rates": {"feature_lr_final": 5e-3, "scaling_lr_final": 2e-3, "position_lr_final": 8.5e-5},
    "mip_filter": {"mip_filter": True},
    "guidance_end_share 0.15": {"guidance_end_share": 0.15},
    "inria": {**SPLIT, "densify_grad_threshold": 0.3, "max_points": 100000},
    "absgrad": {**SPLIT, "densifier": "absgrad", "densify_grad_threshold": 0.08},
    "cadam": {**SPLIT, "densifier": "cadam", "densify_grad_threshold": 0.1},
    "mcmc": {**DENSIFIED, "densifier": "mcmc", "mcmc_noise": 5e3, "densification_interval": 15},
}
"""What differs from configs/fine.yaml."""
POSES, TIMESTEPS = 24, (750, 650, 560, 450, 350, 250)


@dataclass(frozen=True)
class Outcome:
    """Of one training. CPU time in seconds."""

    points: int
    psnr: float
    detail: float
    psnr_256: float
    detail_256: float
    start_s: float
    steps_s: float


def settings_of(name: str, text: str, is_short: bool, folder: Path) -> Config:
    """Of one training."""
    settings: dict[str, object] = {"text": text, "model_path": folder, "device": "cpu"}
    if is_short:
        steps = load_config(["--opt", str(ROOT / "configs" / "fine.yaml")]).optimization.iterations // 2
        settings |= {"iterations": steps, "image_w": 128, "image_h": 128}
    flags = []
    for key, value in (settings | VARIANTS[name]).items():
        flags += [f"--{key}", *map(str, value if isinstance(value, tuple) else [value])]
    return load_config(["--opt", str(ROOT / "configs" / "fine.yaml"), *flags])


def trained(name: str, text: str, is_short: bool, folder: Path) -> Outcome:
    """Trains, and keeps point_cloud.ply and outcome.json in `folder`, unless they are there."""
    kept = folder / "outcome.json"
    if kept.is_file():
        return Outcome(**json.loads(kept.read_text(encoding="utf-8")))
    began, config = time.process_time(), settings_of(name, text, is_short, folder)
    prior, prompts = load_prior_and_prompts(config, torch.device("cpu"))
    state = TrainState.start(config, "cpu", writes=False)
    state.begin_cograd(config, prior.alphas_cumprod)
    started = time.process_time()
    for _ in range(config.optimization.iterations):
        _, update = training_step(state, prior, prompts, config)
        if update.fault is not None:
            raise ValueError(f"{name}, {text}: step {state.iteration} failed: {update.fault}")
    ended, spec = time.process_time(), parse_prompt(text)
    at_128, at_256 = (score_gaussians(state.gaussians, spec, config.cameras, size_px) for size_px in (128, 256))
    scores = (at_128["psnr"], at_128["detail"], at_256["psnr"], at_256["detail"])
    outcome = Outcome(len(state.gaussians.get_xyz), *scores, started - began, ended - started)
    state.gaussians.save_ply(folder / "point_cloud.ply")
    write_text_atomically(kept, json.dumps(dataclasses.asdict(outcome)))
    return outcome


def predicted(text: str, images: int, radii: tuple[float, float], t: int) -> tuple[float, float]:
    """PSNR in dB and detail of the prior's prediction of the clean image, means over POSES with a radius of `radii`."""
    settings = [f"--{key}={value}" for key, value in {"text": text, "ideal_images": images}.items()]
    config = load_config(["--opt", str(ROOT / "configs" / "quickstart.yaml"), *settings])
    (prior, prompts), (spec,), drawn = _prior_of(config), [parse_prompt(text)], np.random.default_rng(0)
    theta_deg, phi_deg = drawn.uniform(*config.cameras.theta_range, POSES), drawn.uniform(0, 180, POSES)
    views = [View(*pose, config.cameras.default_fovy) for pose in zip(theta_deg, phi_deg, drawn.uniform(*radii, POSES))]
    gbuffers = render_gbuffers(spec.class_name, views, prior.resolution_px, supersample=3)
    truth = compose(gbuffers, spec.rgb_a(), spec.rgb_b(), (1, 1, 1))
    clean, a = prior.encode_imgs(torch.from_numpy(truth)), prior.alphas_cumprod[t].sqrt()
    sigma = (1 - prior.alphas_cumprod[t]).sqrt()
    noise = torch.from_numpy(drawn.standard_normal(truth.shape, np.float32))
    x_t = a * clean + sigma * noise
    eps = prior.predict_noise(x_t, torch.full((POSES,), t), prompts.embeddings["default"].expand(POSES, -1, -1))
    made = prior.decode_latents((x_t - sigma * eps) / a).numpy()
    inside = gbuffers[:, 5] > 127
    pairs = list(zip(made, truth, inside))
    detail = [masked_ncc(high_pass(one), high_pass(other), mask) for one, other, mask in pairs]
    return float(np.mean([psnr(one, other) for one, other, _ in pairs])), float(np.mean(detail))


@functools.cache
def _prior_of(config: Config) -> Any:
    return load_prior_and_prompts(config, torch.device("cpu"))


def prior_table() -> str:
    """A line a number of images and range of distances, a column a timestep."""
    names = "images", "distances", *(f"t = {t}" for t in TIMESTEPS)
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for images, radii in ((480, (3.45, 3.55)), (480, (3.5, 3.5)), (1500, (3.5, 3.5))):
        found = [predicted(OBJECTS[0], images, radii, t) for t in TIMESTEPS]
        shown = " | ".join(f"{decibel:.1f} dB, {detail:.2f}" for decibel, detail in found)
        lines.append(f"| {images} | {radii[0]} to {radii[1]} | {shown} |")
    return "\n".join(lines)


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """A line a variant, means over the objects; differences from the first."""
    names = "change", "Gaussians", "PSNR, dB", "detail", "PSNR, 256 px", "detail, 256 px", "CPU s: start", "steps"
    lines, base = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"], None
    for name, runs in outcomes.items():
        points, *scores, start_s, steps_s = (statistics.mean(column) for column in zip(*map(dataclasses.astuple, runs)))
        shown = [f"{score:.{2 + k % 2}f}" for k, score in enumerate(scores)]
        if base is not None:
            shown = [f"{text} ({score - first:+.2f})" for text, score, first in zip(shown, scores, base)]
        base = base or scores
        lines.append(f"| {name} | {points:,.0f} | {' | '.join(shown)} | {start_s:.0f} | {steps_s:.0f} |")
    return "\n".join(lines)


@program.refuses("fine", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder that keeps clouds and results")
    what.add_argument("--prior", action="store_true", help="what the prior predicts, no training")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--objects", type=int, default=len(OBJECTS))
    parser.add_argument("--short", action="store_true", help="half the steps, 128 px")
    args = parser.parse_args(argv)
    if args.prior:
        print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n\n{prior_table()}")
        return
    outcomes: dict[str, list[Outcome]] = {name: [] for name in args.only}
    for k, text in enumerate(OBJECTS[: args.objects]):
        for name in args.only:
            own = args.out / f"{'short ' if args.short else ''}{name} {k}".replace(" ", "_").replace(",", "")
            outcomes[name].append(trained(name, text, args.short, own))
            print(f"{text}, {name}: {outcomes[name][-1]}", file=sys.stderr, flush=True)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {args.objects} objects, one seed\n\n{table(outcomes)}")


if __name__ == "__main__":
    program.run(main)
