# SPDX-License-Identifier: Apache-2.0
"""What an ablation runs: variants, priors, view words, objects and seeds, each a few flags of train.py."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from arguments import Config
from arguments.load import load_config
from evaluation.sweep.runs import ROOT

PRIORS = {"ideal": "configs/toy.yaml", "trained": "configs/toy_trained.yaml"}
OBJECTS = (  # the variant "tried" was chosen on these
    "a cyan robot with orange arms",
    "a white snowman with red scarf",
    "a yellow house with red roof",
    "a brown donut with pink icing",
)

OTHER_OBJECTS = (  # and on none of these
    "a purple owl with green belly",
    "an orange cat with blue collar",
    "a red mushroom with white stem",
    "a yellow mug with blue handle",
)

FRONT_OBJECTS = (  # the experiment on wrong fronts: all have one, and nothing was chosen on the last four
    "a cyan robot with orange arms",
    "a white snowman with red hat",
    "a purple owl with green belly",
    "a yellow mug with blue handle",
    "a red car with blue roof",
    "a white rocket with red fins",
)


def _steps(count: int) -> dict[str, str]:
    small = {"image_w": "64", "image_h": "64", "init_num_pts": "1500"}
    return {"iterations": str(count), "warmup_iter": str(count), **small}


SETTINGS = {"ideal": _steps(300), "trained": _steps(100)}
"""Prior -> flags: small enough for a run of some ten seconds on one core."""


def _switches(regions: bool, timesteps: str, fusion: bool, enabled: bool = True) -> dict[str, str]:
    values = {"enabled": enabled, "use_regions": regions, "timestep_mode": timesteps, "use_fusion": fusion}
    return {f"CoGradParams.{name}": str(value).lower() for name, value in values.items()}


VARIANTS: dict[str, dict[str, str]] = {
    "plain": _switches(False, "random", False),
    "schedule_only": _switches(False, "schedule", False),
    "luciddreamer": _switches(True, "full", True, enabled=False),
    "ism": {**_switches(True, "full", True, enabled=False), "GuidanceParams.sds": "false"},
    "full": _switches(True, "full", True),
    "wo_region": _switches(False, "full", True),
    "wo_timestep": _switches(True, "random", True),
    "wo_fusion": _switches(True, "full", False),
    "fusion_alone": _switches(False, "schedule", True),
    "tried": {
        **_switches(True, "full", True),
        "CoGradParams.loss_signal": "t_normalised",
        "CoGradParams.min_visit_share": "0.5",
        "CoGradParams.prog_range": "[0.2, 0.5]",
        "CoGradParams.t_jitter": "200",
    },
}
"""Variant -> flags. plain: uniform regions, uniform timesteps, gradients summed. luciddreamer: CoGrad off, so the
config's own camera law and timestep range. ism: the same by LucidDreamer's ISM; all others distil by SDS, as the config
says. wo_region: uniform regions, local timesteps, fusion. fusion_alone: uniform regions, the schedule's timesteps,
fusion. tried: a change of the paper's, benchmarks/results/variants.md has more; all others are the paper's."""
PAPER_VARIANTS = [name for name in VARIANTS if name not in ("fusion_alone", "tried", "ism")]
FRONT_VARIANTS = ["schedule_only", "full", "wo_region", "wo_timestep", "wo_fusion", "fusion_alone"]
"""Those of the experiment on wrong fronts."""

OUTPUT_FLAGS = {
    "save_video": "false",
    "save_process": "false",
    "quiet": "true",
    "test_ratio": "1",
    "save_ratio": "1",
    "vis_interval": "1000000",
}


@dataclass(frozen=True)
class Run:
    """One cell of the grid and one seed."""

    prior: str
    front_bias: float  # GuidanceParams.front_bias; 0: full view words
    prompt: str
    variant: str
    seed: int

    @property
    def words(self) -> str:
        """Of the views: full or weak."""
        return "weak" if self.front_bias else "full"

    @property
    def name(self) -> str:
        """A name for files, different for every run of a grid."""
        prompt = re.sub(r"[^a-z0-9]+", "_", self.prompt.lower()).strip("_")
        return f"{self.prior}-bias{self.front_bias:g}-{prompt}-{self.variant}-seed{self.seed}"

    def facts(self) -> dict[str, Any]:
        """What the run's JSON repeats."""
        return {**asdict(self), "words": self.words}

    def flags(self, extra: Sequence[str] = ()) -> list[str]:
        """The words of train.py's command line, to be called in ROOT.

        `extra` holds for every run and cannot change what the cell says.
        """
        own = {
            "GuidanceParams.front_bias": f"{self.front_bias:g}",
            "text": self.prompt,
            "seed": str(self.seed),
            "noise_seed": str(self.seed),
            **VARIANTS[self.variant],
        }
        return ["--opt", PRIORS[self.prior], *_told({**OUTPUT_FLAGS, **SETTINGS[self.prior]}), *extra, *_told(own)]


def _told(flags: Mapping[str, str]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def runs_of(
    priors: Sequence[str],
    words: Sequence[str],
    prompts: Sequence[str],
    variants: Sequence[str],
    seeds: int,
    weak: Mapping[str, float],
) -> list[Run]:
    """The whole grid, seed by seed, so that a grid that is stopped early has whole pairs.

    `weak`: prompt -> front_bias of weak words.
    """
    cells = product(range(seeds), priors, words, prompts, variants)
    return [
        Run(prior, weak[prompt] if word == "weak" else 0.0, prompt, variant, seed)
        for seed, prior, word, prompt, variant in cells
    ]


def check_regions(config: Config, source: str) -> None:
    """ValueError unless the regions are around the config's own cameras: the variants must see the same view space."""
    cameras, p = config.cameras, config.cograd
    elevation = (90 - cameras.theta_range[1], 90 - cameras.theta_range[0])
    for name, own, regions in (
        ("elevation", elevation, p.elevation_range),
        ("distance", cameras.radius_range, p.distance_range),
    ):
        if not regions[0] <= sum(own) / 2 <= regions[1]:
            raise ValueError(
                f"{source}: its cameras have {name}s {own[0]:g}..{own[1]:g}, its regions {regions[0]:g}.."
                f"{regions[1]:g}; set CoGradParams.{name}_range so that they look at the same views"
            )


def check_runs(runs: Sequence[Run], extra: Sequence[str]) -> None:
    """Refuses flags that train.py would refuse, before anything runs: loads one config of each prior and variant."""
    for run in {(run.prior, run.variant): run for run in runs}.values():
        flags = run.flags(extra)
        check_regions(load_config(["--opt", str(ROOT / flags[1]), *flags[2:]]), PRIORS[run.prior])
