# SPDX-License-Identifier: Apache-2.0
"""What the assets that are left cost, estimated before anything runs, by the steps, views, size and law of each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arguments import Config
from evaluation.experiments.budget import samples_a_step
from evaluation.experiments.grid import config_of
from evaluation.experiments.runs import Run
from guidance.image_size import prior_size_px
from utils.wording import counted

SAMPLE_TFLOP, ENCODE_TFLOP, COUNTED_PX = 0.804, 2.27, 512
"""Stable Diffusion 2.1: a U-Net sample, an encoding with its backward pass; counted in benchmarks/results/budget.md."""
ASSET_MB = {"sd": 120.0, "toy": 1.4, "toy-trained": 1.4}
TOY_VIEW_S = {"toy": 13.0 / 1200, "toy-trained": 15.0 / 1200}
TOY_IMAGES_S = 3.0
"""Seconds of one core: a view of a step at the default size; an asset's images and scores. The machine is in
benchmarks/results/reproduce.md."""


@dataclass(frozen=True)
class Cost:
    """Of what is left to be made."""

    assets: int
    hours: float  # of wall-clock time
    disk_gb: float
    why: str

    def __str__(self) -> str:
        if not self.assets:
            return "Nothing is left to make"
        minutes = math.ceil(60 * self.hours)
        time = f"{self.hours:.1f} hours" if self.hours >= 1 else counted(minutes, "minute")
        disk = f"{self.disk_gb:.1f} GB" if self.disk_gb >= 1 else f"{1000 * self.disk_gb:.0f} MB"
        return f"{counted(self.assets, 'asset')} to make: about {time} ({self.why}) and {disk}"


def cost(prior: str, left: Sequence[Run], jobs: int, measured_s: Sequence[float], tflops: float) -> Cost:
    """Of the runs `left`, `jobs` at a time. `measured_s`: seconds of assets made before with the same flags."""
    if not left:
        return Cost(0, 0.0, 0.0, "")
    if measured_s:
        asset_s = sum(measured_s) / len(measured_s)
        why = f"{asset_s:.0f} s an asset, as the {len(measured_s)} made before"
    elif prior in TOY_VIEW_S:
        asset_s = TOY_IMAGES_S + _mean(left, views_of) * TOY_VIEW_S[prior]
        why = f"{asset_s:.0f} s an asset on a core of the machine it was measured on"
    else:
        pflop = _mean(left, pflop_of)
        asset_s = pflop * 1e3 / tflops
        why = f"{pflop:.0f} PFLOP an asset at {tflops:g} TFLOP/s"
    hours = len(left) * asset_s / max(jobs, 1) / 3600
    return Cost(len(left), hours, len(left) * ASSET_MB[prior] / 1000, f"{why}, {jobs} at a time")


def views_of(config: Config) -> int:
    """Rendered and distilled in a run."""
    return config.optimization.iterations * config.guidance.C_batch_size


def pflop_of(config: Config) -> float:
    """Of a run's networks, in proportion to the pixels; without what unet_cache_interval and tiny_vae spare."""
    width, height = prior_size_px(config.cameras)
    of_a_step = SAMPLE_TFLOP * samples_a_step(config) + ENCODE_TFLOP * config.guidance.C_batch_size
    return config.optimization.iterations * of_a_step * (width * height / COUNTED_PX**2) / 1e3


def _mean(left: Sequence[Run], of: Callable[[Config], float]) -> float:
    """The mean over the runs of what a run's settings cost, which is that of its row."""
    first = {run.facts["variant"]: run for run in left}
    of_row = {variant: of(config_of(run)) for variant, run in first.items()}
    return sum(of_row[run.facts["variant"]] for run in left) / len(left)
