# SPDX-License-Identifier: Apache-2.0
"""What is reproduced: the paper's rows that this code can run, each a prior's flags; and what that costs beforehand."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product

from evaluation.ablation.grid import OBJECTS, Run
from evaluation.sweep.runs import Job

Numbers = dict[str, float]


@dataclass(frozen=True)
class Method:
    """One row: its name in the paper, the config for Stable Diffusion, the toy world's variant, the paper's numbers.

    toy_title: what the toy world's variant is, where that is not what the paper's row is.
    """

    title: str
    config: str
    toy_variant: str
    table: str
    paper: Numbers = field(default_factory=dict)
    toy_title: str = ""

    def title_on(self, prior: str) -> str:
        """What a row of this prior is called."""
        return self.toy_title if self.toy_title and prior == "toy" else self.title

    def paper_on(self, prior: str) -> Numbers:
        """The paper's numbers for a row of this prior; none where it is another method."""
        return self.paper if self.title_on(prior) == self.title else {}


LUCIDDREAMER = {
    "clip_b32": 30.02,
    "clip_b32_std": 1.19,
    "clip_l14": 27.74,
    "clip_l14_std": 1.24,
    "vqascore": 0.5702,
    "image_reward": 0.5022,
    "janus": 0.2000,
}

METHODS = {
    "luciddreamer": Method(
        "LucidDreamer",
        "configs/luciddreamer.yaml",
        "luciddreamer",
        "Table 1",
        LUCIDDREAMER,
        toy_title="SDS, CoGrad off",
    ),
    "ism": Method("LucidDreamer (ISM)", "configs/luciddreamer.yaml", "ism", "Table 1", LUCIDDREAMER),
    "cograd": Method(
        "CoGrad3D",
        "configs/prompt.yaml",
        "full",
        "Tables 1 and 2",
        {"clip_b32": 31.42, "clip_b32_std": 1.02, "clip_l14": 28.91, "clip_l14_std": 1.21, "vqascore": 0.6286}
        | {"image_reward": 0.7449, "janus": 0.2250},
    ),
    "wo_region": Method(
        "w/o A (regions)",
        "configs/wo_region.yaml",
        "wo_region",
        "Table 2",
        {"clip_b32": 28.28, "clip_l14": 24.75, "vqascore": 0.4988, "image_reward": -0.0447},
    ),
    "wo_timestep": Method(
        "w/o B (timesteps)",
        "configs/wo_timestep.yaml",
        "wo_timestep",
        "Table 2",
        {"clip_b32": 29.03, "clip_l14": 24.91, "vqascore": 0.5310, "image_reward": -0.4829},
    ),
    "wo_fusion": Method(
        "w/o C (fusion)",
        "configs/wo_fusion.yaml",
        "wo_fusion",
        "Table 2",
        {"clip_b32": 27.97, "clip_l14": 25.21, "vqascore": 0.5541, "image_reward": 0.2448},
    ),
    "schedule_only": Method(
        "schedule only", "configs/schedule_only.yaml", "schedule_only", "a control, not the paper's"
    ),
}
PAPER_METHODS = [name for name, method in METHODS.items() if method.paper and name != "ism"]
TOY_METHODS = [name for name, method in METHODS.items() if method.paper]
"""The toy world's config distils by SDS (`sds: true`), so that LucidDreamer's ISM is a row of its own."""
TOY_PROMPTS = list(OBJECTS)
OUTPUT_FLAGS = ("--test_ratio", "1", "--save_ratio", "1", "--save_process", "false", "--quiet", "true")
MINIATURE_FLAGS = ("--iterations", "40", "--warmup_iter", "40", "--image_w", "32", "--image_h", "32", "--view_px", "48")
MINIATURE_PROMPTS, MINIATURE_SEEDS = 1, 2

STEP_PFLOP = 0.0348
"""A LucidDreamer step of 4 views of 512 px: 5 + 1 inversion forwards, guidance, VAE; docs/evaluation.md has the sum."""
STEPS = 6000
ASSET_MB = {"sd": 120.0, "toy": 2.8}
TOY_RUN_S = 16.0
"""Seconds of one core a toy run of the default size; benchmarks/results/reproduce.md has the machine."""


@dataclass(frozen=True)
class Asset:
    """One scene to be made."""

    prior: str  # sd or toy
    method: str
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """For files: different for each asset, and readable."""
        words = re.sub(r"[^a-z0-9]+", "_", self.prompt.lower()).strip("_")[:60]
        digest = hashlib.sha256(self.prompt.encode()).hexdigest()[:6]
        return f"{self.method}-{words}-{digest}-seed{self.seed}"

    def job(self, extra: Sequence[str] = ()) -> Job:
        """train.py's words. `extra` holds for every asset and cannot change method, prompt or seed."""
        return Job(self.name, tuple(self._flags(extra)), {"name": self.name, **asdict(self)})

    def _flags(self, extra: Sequence[str]) -> list[str]:
        method = METHODS[self.method]
        if self.prior == "toy":
            return Run("ideal", 0.0, self.prompt, method.toy_variant, self.seed).flags(extra)
        own = ["--text", self.prompt, "--seed", str(self.seed), "--noise_seed", str(self.seed)]
        return ["--opt", method.config, *OUTPUT_FLAGS, *extra, *own]


def assets_of(prior: str, methods: Sequence[str], prompts: Sequence[str], seeds: int) -> list[Asset]:
    """Every asset, seed by seed and prompt by prompt, so that what is stopped early has whole comparisons."""
    cells = product(range(seeds), prompts, methods)
    return [Asset(prior, method, prompt, seed) for seed, prompt, method in cells]


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
        time = f"{self.hours:.1f} hours" if self.hours >= 1 else f"{minutes} minute{'' if minutes == 1 else 's'}"
        disk = f"{self.disk_gb:.1f} GB" if self.disk_gb >= 1 else f"{1000 * self.disk_gb:.0f} MB"
        what = "1 asset" if self.assets == 1 else f"{self.assets} assets"
        return f"{what} to make: about {time} ({self.why}) and {disk}"


def cost(prior: str, left: int, jobs: int, measured_s: Sequence[float], tflops: float) -> Cost:
    """Of `left` assets, `jobs` at a time. `measured_s`: seconds of assets that were made before with the same flags."""
    if measured_s:
        asset_s = sum(measured_s) / len(measured_s)
        why = f"{asset_s:.0f} s an asset, as the {len(measured_s)} made before, {jobs} at a time"
    elif prior == "toy":
        asset_s, why = (
            TOY_RUN_S,
            f"{TOY_RUN_S:.0f} s an asset on a core of the machine it was measured on, {jobs} at a time",
        )
    else:
        asset_s = STEP_PFLOP * STEPS * 1e3 / tflops
        why = f"{STEP_PFLOP * STEPS:.0f} PFLOP an asset at {tflops:g} TFLOP/s, {jobs} at a time"
    return Cost(left, left * asset_s / max(jobs, 1) / 3600, left * ASSET_MB[prior] / 1000, why)
