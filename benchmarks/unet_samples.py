# SPDX-License-Identifier: Apache-2.0
"""Cheaper inversions of ISM, by arithmetic and by the gradient: `python benchmarks/unet_samples.py`.

Settings that spare U-Net samples, each against LucidDreamer's inversion (5 steps of 200, each by the whole U-Net):
- cost: U-Net arithmetic of a step over the reference's, at the timesteps below, for Stable Diffusion 2.1 at 512 px. A
  whole sample counts 1; a cached one what torch counts for the outer layers on the meta device.
- cosine: of the gradient on the latents with the reference's, mean over views and lowest, with assets/toy-prior; the
  images are those of a short run of it. Text, noise and timesteps are the same for all settings; the last row, with
  another noise, says how far two draws of the same setting are apart.
--quality N makes runs instead: N seeds of a prompt of the toy world for some of the settings, scored against the truth
(toy/scoring.py); differences are paired by seed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import dataclasses
import statistics
import subprocess
import tempfile
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from arguments import Config, GuidanceParams
from arguments.load import load_config
from benchmarks.random_sd21 import UNET
from evaluation.known_truth import score_run
from guidance.feature_cache import outer_layers
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from trainer.priors import load_prior
from trainer.state import TrainState
from trainer.step import StepGradients, training_step
from utils.machine import machine
from utils.random_streams import RandomStreams

ROOT = Path(__file__).resolve().parents[1]
TIMESTEPS = (100, 250, 400, 550, 700, 900)
SETTINGS: dict[str, dict[str, Any]] = {
    "5 steps of 200, as LucidDreamer": {},
    "unet_cache_interval 2": {"unet_cache_interval": 2},
    "unet_cache_interval 3": {"unet_cache_interval": 3},
    "unet_cache_interval 5": {"unet_cache_interval": 5},
    "3 steps of 333": {"xs_inv_steps": 3, "xs_delta_t": 333},
    "2 steps of 500": {"xs_inv_steps": 2, "xs_delta_t": 500},
    "1 step of 1000": {"xs_inv_steps": 1, "xs_delta_t": 1000},
    "3 steps of 200": {"xs_inv_steps": 3},
    "1 step of 200": {"xs_inv_steps": 1},
}
RUN = {
    "opt": ROOT / "configs" / "toy_trained.yaml", "model_key": ROOT / "assets" / "toy-prior", "sds": "false",
    "delta_t": 50, "guidance_scale": 7.5, "image_w": 48, "image_h": 48, "init_num_pts": 1500,
    "device": "cpu",
}  # fmt: skip

ANOTHER_NOISE = "as LucidDreamer, another noise"
QUALITY = ("5 steps of 200, as LucidDreamer", "unet_cache_interval 3", "unet_cache_interval 5", "2 steps of 500")
SCORES = ("psnr", "detail")
QUIET = {"save_process": "false", "save_video": "false", "test_ratio": 1, "view_px": 64, "quiet": "true"}


class Counted:
    """A prior that counts its U-Net's samples: [by the whole U-Net, by its outer layers]."""

    def __init__(self, prior: Any) -> None:
        self.prior, self.samples = prior, [0, 0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def predict_noise(self, x_t: Tensor, *rest: Tensor) -> Tensor:
        self.samples[0] += len(x_t)
        return self.prior.predict_noise(x_t, *rest)

    def predict_noise_cached(self, x_t: Tensor, *rest: Tensor, features: Any = None) -> Any:
        self.samples[features is not None] += len(x_t)
        return self.prior.predict_noise_cached(x_t, *rest, features=features)


def outer_share(size_px: int = 512) -> float:
    """Arithmetic of the outer layers over that of the whole U-Net, for Stable Diffusion 2.1."""
    from diffusers import UNet2DConditionModel

    with torch.no_grad(), torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        x, t, text = torch.empty(1, 4, size_px // 8, size_px // 8), torch.empty(1), torch.empty(1, 77, 1024)
        with FlopCounterMode(display=False) as whole:
            unet(x, t, encoder_hidden_states=text)
        with FlopCounterMode(display=False) as outer:
            outer_layers(unet, x, t, text, torch.empty(1, 320, *x.shape[2:]))
    return outer.get_total_flops() / whole.get_total_flops()


def images_of_a_run(config: Config, prior: Any, steps: tuple[int, ...]) -> list[StepGradients]:
    """The training steps of these numbers, of a run with this prior."""
    state = TrainState.start(config, torch.device("cpu"))
    state.begin_cograd(config, prior.alphas_cumprod)
    prompts = PromptEmbeddings(prior, config.guidance)
    made = [training_step(state, prior, prompts, config)[0] for _ in range(max(steps))]
    return [made[step - 1] for step in steps]


def gradient(prior: Any, params: GuidanceParams, step: StepGradients, ind_t: int, seed: int) -> Tensor:
    """The guidance's gradient [B,C,h,w] on a step's latents, with all views at one timestep."""
    images, disparities, alphas = step.rendered
    conditioning = PromptEmbeddings(prior, params).conditioning(step.draws.azimuth_deg)
    options: dict[str, Any] = {"warm_up_rate": 0.0, "as_latent": False, "memory": NoiseMemory()}
    index = torch.full((len(images),), ind_t)
    streams = RandomStreams(seed, seed)
    made = distill_views(
        prior, images, disparities, alphas, conditioning, Loss(params), streams, ind_t=index, **options
    )
    return made.grad


def words_of(settings: dict[str, Any]) -> list[str]:
    """Settings as a command line."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def compare_gradients(steps_of_run: list[int]) -> None:
    """Prints the table of costs and cosines."""
    share = outer_share()
    print(f"The outer layers are {share:.1%} of the U-Net's arithmetic.\n")
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([*words_of(RUN), "--t_range", "0.02", "0.98", "--model_path", folder])
        prior = load_prior(config, torch.device("cpu"))
        steps = images_of_a_run(config, prior, tuple(steps_of_run))
    cases = [(step, t) for step in steps for t in TIMESTEPS]
    reference, whole = [], [0, 0]
    print("| inversion | cost | cost with Perp-Neg | cosine, mean | lowest |\n|---|---|---|---|---|")
    for name, changes in [*SETTINGS.items(), (ANOTHER_NOISE, {})]:
        counted = Counted(prior)
        params = dataclasses.replace(config.guidance, **changes)
        made = [gradient(counted, params, step, t, int(name == ANOTHER_NOISE)) for step, t in cases]
        reference = reference or made
        whole = whole if whole[0] else counted.samples
        alike = [functional.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in zip(made, reference)]
        cosines = torch.cat(alike)
        added = (0, 2 * len(cosines))  # samples of Perp-Neg's further texts
        costs = [(counted.samples[0] + share * counted.samples[1] + n) / (whole[0] + n) for n in added]
        print(f"| {name} | {costs[0]:.2f} | {costs[1]:.2f} | {cosines.mean():.4f} | {cosines.min():.3f} |", flush=True)


def compare_runs(seeds: int, iterations: int) -> None:
    """Prints the table of scores, and their paired differences from the reference's."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in QUALITY}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for name in QUALITY:
                run = Path(folder) / f"{seed}_{name.replace(' ', '_')}"
                lengths = {"iterations": iterations, "warmup_iter": iterations}
                settings = {**RUN, **QUIET, **lengths, **SETTINGS[name], "seed": seed, "noise_seed": seed}
                subprocess.run(
                    [sys.executable, str(ROOT / "train.py"), *words_of(settings), "--model_path", str(run)], check=True
                )
                found[name].append(score_run(run, 64))
    print("| inversion | PSNR, dB | difference | detail | difference |\n|---|---|---|---|---|")
    reference = found[QUALITY[0]]
    for name, scores in found.items():
        cells = []
        for score in SCORES:
            values = [run[score] for run in scores]
            apart = [run[score] - other[score] for run, other in zip(scores, reference)]
            error = statistics.stdev(apart) / seeds**0.5 if seeds > 1 else float("nan")
            cells += [f"{statistics.mean(values):.2f}", f"{statistics.mean(apart):+.2f} +- {error:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


@program.refuses("unet_samples", ValueError, OSError)
def main(argv: list[str]) -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 60], help="training steps whose images are taken")
    parser.add_argument("--quality", type=int, default=0, metavar="SEEDS", help="make runs, and score them")
    parser.add_argument("--iterations", type=int, default=300, help="of those runs")
    options = parser.parse_args(argv)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, torch {torch.__version__}\n")
    if options.quality:
        compare_runs(options.quality, options.iterations)
    else:
        compare_gradients(options.steps)


if __name__ == "__main__":
    program.run(main)
