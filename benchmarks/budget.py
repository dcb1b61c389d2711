# SPDX-License-Identifier: Apache-2.0
"""What a whole run computes: arithmetic of its networks at full size, and the rate that the goals ask for.

`python benchmarks/budget.py`. Timesteps are those that CoGrad plans over the run of configs/prompt.yaml (losses equal,
so that no region is preferred); each view's U-Net samples follow from its timestep. A sample, an encoding and the outer
layers count what torch counts for Stable Diffusion 2.1 at 512 px on the meta device. No GPU, no weights.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from arguments import Config
from arguments.load import load_config
from benchmarks.random_sd21 import UNET, VAE
from cograd import CoGrad
from guidance import sd_step
from guidance.feature_cache import inversion_calls, outer_layers

ROOT = Path(__file__).resolve().parents[1]
ISM, SDS = "ISM, prompt.yaml", "SDS (two samples a view)"
GOALS = (("prompt.yaml on an H100", 720, ISM), ("prompt.yaml on an A100", 1800, ISM), ("SDS on an H100", 300, SDS))
"""(goal, seconds, a run of SETTINGS)."""
SETTINGS: dict[str, dict[str, Any]] = {
    ISM: {},
    "with unet_cache_interval 3": {"unet_cache_interval": 3},
    "with xs_inv_steps 2, xs_delta_t 500": {"xs_inv_steps": 2, "xs_delta_t": 500},
    "with tiny_vae_until 0.5": {"tiny_vae_until": 0.5},
    "with unet_cache_interval 3, tiny_vae_until 0.5": {"unet_cache_interval": 3, "tiny_vae_until": 0.5},
    SDS: {"sds": "true"},
    "SDS with tiny_vae_until 0.5": {"sds": "true", "tiny_vae_until": 0.5},
}


@dataclass(frozen=True)
class Work:
    """TFLOP at 512 px: a U-Net sample, its outer layers, an encoding with its backward pass, the same by a tiny one."""

    sample: float
    outer: float
    encode: float
    tiny_encode: float


def work_of_sd21(size_px: int = 512) -> Work:
    """Counted on the meta device."""
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

    def tflop(call: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops() / 1e12

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET).requires_grad_(False)
        vae, tiny = AutoencoderKL(**VAE).requires_grad_(False), AutoencoderTiny().requires_grad_(False)
        x, t, text = torch.empty(1, 4, size_px // 8, size_px // 8), torch.empty(1), torch.empty(1, 77, 1024)
        deep, image = torch.empty(1, 320, *x.shape[2:]), torch.empty(1, 3, size_px, size_px, requires_grad=True)
    return Work(
        tflop(lambda: unet(x, t, encoder_hidden_states=text)),
        tflop(lambda: outer_layers(unet, x, t, text, deep)),
        tflop(lambda: vae.encode(image).latent_dist.mean.sum().backward()),
        tflop(lambda: tiny.encode(image).latents.sum().backward()),
    )


def planned_timesteps(config: Config) -> Iterator[list[int]]:
    """The timesteps of each step's views, when all losses are equal and no gradient is fused."""
    total = config.optimization.iterations
    alphas = sd_step.scaled_linear_alphas()
    cograd, generator = CoGrad(config.cograd, alphas, total), torch.Generator().manual_seed(0)
    views = config.guidance.C_batch_size
    for step in range(1, total + 1):
        plan = cograd.plan(step, views, generator)
        cograd.observe(step, plan.regions, plan.t, torch.ones(views), [None] * views)
        yield plan.t.tolist()


class Counter:
    """A prior that counts the samples of an inversion: [by the whole U-Net, by its outer layers]."""

    def __init__(self) -> None:
        self.samples = [0, 0]

    def predict_noise(self, x_t: Tensor, *rest: Tensor) -> Tensor:
        self.samples[0] += len(x_t)
        return x_t

    def predict_noise_cached(self, x_t: Tensor, *rest: Tensor, features: Any = None) -> Any:
        self.samples[features is not None] += len(x_t)
        return x_t, (x_t,)


def samples_of(config: Config, t: int) -> tuple[int, int]:
    """(whole, outer) U-Net samples of a view at timestep t; the guided prediction has two texts, with Perp-Neg four."""
    params = config.guidance
    counter: Any = Counter()
    x = torch.zeros(1)
    if not params.sds:
        path = sd_step.inversion_path(t, params.delta_t, params.xs_delta_t, params.xs_inv_steps)
        for _, predict in inversion_calls(counter, [path], params.unet_cache_interval):
            predict(x, x, x)
    return counter.samples[0] + (4 if params.perpneg else 2), counter.samples[1]


def tflop_of_run(config: Config, work: Work, timesteps: list[list[int]]) -> float:
    """Of all steps: U-Net samples, and encodings with their backward pass."""
    total, until, views = len(timesteps), config.guidance.tiny_vae_until, config.guidance.C_batch_size
    is_tiny = [bool(config.guidance.tiny_vae) and step <= until * total for step in range(1, total + 1)]
    encode = sum(views * (work.tiny_encode if tiny else work.encode) for tiny in is_tiny)
    cost = {t: samples_of(config, t) for t in {t for step in timesteps for t in step}}
    whole, outer = (sum(cost[t][k] for step in timesteps for t in step) for k in (0, 1))
    return work.sample * whole + work.outer * outer + encode


@program.refuses("budget", ValueError, OSError)
def main(argv: list[str]) -> None:
    """Prints the table of runs, and that of goals."""
    program.parser(__doc__).parse_args(argv)
    work = work_of_sd21()
    print(f"TFLOP at 512 px: a U-Net sample {work.sample:.3f}, its outer layers {work.outer:.3f}, an encoding with its")
    print(f"backward pass {work.encode:.2f}, by a tiny autoencoder {work.tiny_encode:.2f}\n")
    words = ["--opt", str(ROOT / "configs" / "prompt.yaml"), "--device", "cpu", "--annealing_intervals", "false"]
    timesteps = list(planned_timesteps(load_config(words)))
    print("| run of 6000 steps of four views | PFLOP | TFLOP a step | of the first row |\n|---|---|---|---|")
    found: dict[str, float] = {}
    for name, changes in SETTINGS.items():
        more = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
        more += ["--tiny_vae", "FOLDER"] if "tiny_vae_until" in changes else []
        found[name] = tflop_of_run(load_config([*words, *more]), work, timesteps)
        share = found[name] / found[next(iter(found))]
        print(f"| {name} | {found[name] / 1e3:.0f} | {found[name] / len(timesteps):.1f} | {share:.2f} |")
    print("\n| goal | s | ms a step | TFLOP/s that it asks for |\n|---|---|---|---|")
    for goal, seconds, run in GOALS:
        print(f"| {goal} | {seconds} | {1e3 * seconds / len(timesteps):.0f} | {found[run] / seconds:.0f} |")


if __name__ == "__main__":
    program.run(main)
