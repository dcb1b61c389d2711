# SPDX-License-Identifier: Apache-2.0
"""The grid of every experiment: variants, priors, prompts and seeds, each a few flags of train.py."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from arguments import Config
from arguments.further import RUN, label_of, refuse_set
from arguments.load import load_config
from arguments.paths import settled_words
from evaluation.experiments.runs import ROOT, Run
from scene.view_space import region_problems

OBJECTS = (
    "a cyan robot with orange arms",
    "a white snowman with red scarf",
    "a yellow house with red roof",
    "a brown donut with pink icing",
)
FRONT_OBJECTS = (  # the experiment on wrong fronts: all have one, and nothing was chosen on the last four
    "a cyan robot with orange arms",
    "a white snowman with red hat",
    "a purple owl with green belly",
    "a yellow mug with blue handle",
    "a red car with blue roof",
    "a white rocket with red fins",
)


TRAINED_OBJECTS = ("a red mushroom with white stem", "a yellow house with red roof", "an orange cat with blue collar")
"""What the trained toy prior has learnt well enough to be more than a blur."""
TOY_PRIORS = {"toy": "ideal", "toy-trained": "trained"}
"""tools/reproduce.py --prior -> the toy world's prior."""


def _switches(regions: bool, timesteps: str, fusion: bool, enabled: bool = True) -> dict[str, str]:
    values = {"enabled": enabled, "use_regions": regions, "timestep_mode": timesteps, "use_fusion": fusion}
    return {f"CoGradParams.{name}": str(value).lower() for name, value in values.items()}


@dataclass(frozen=True)
class Variant:
    """One row of a table. `switches`: flags in the toy world; `config`: file for Stable Diffusion, if it has one.

    paper: the paper's numbers; toy_title: what the row is in the toy world, where that is not the paper's method.
    flags: further ones, on every prior, of a row with a law or an optimizer of its own.
    """

    switches: dict[str, str]
    title: str = ""
    config: str = ""
    table: str = ""
    paper: dict[str, float] = field(default_factory=dict)
    toy_title: str = ""
    flags: dict[str, str] = field(default_factory=dict)

    def title_on(self, prior: str) -> str:
        """What a row of this prior is called."""
        return self.toy_title if self.toy_title and prior in TOY_PRIORS else self.title

    def paper_on(self, prior: str) -> dict[str, float]:
        """The paper's numbers for a row of this prior; none where it is another method."""
        return self.paper if self.title_on(prior) == self.title else {}


COGRAD_OFF = _switches(True, "full", True, enabled=False)
CONTROL = "a control, not the paper's"
TABLE_1_NUMBERS = ("clip_b32", "clip_b32_std", "clip_l14", "clip_l14_std", "vqascore", "image_reward", "janus")


def _by_law(title: str, paper: tuple[float, ...], law: str, **settings: str) -> Variant:
    """Another method of Table 1, as far as it is a distillation law: on this scene, camera law and prior."""
    flags = {"distillation": law, "perpneg": "false", **settings}
    flags = {f"GuidanceParams.{name}": value for name, value in flags.items()}
    numbers = dict(zip(TABLE_1_NUMBERS, paper, strict=True))
    return Variant(COGRAD_OFF, title, "configs/luciddreamer.yaml", "Table 1", numbers, flags=flags)


def _weighted(weighting: str, formula: str, beta2: float) -> Variant:
    """CoGrad3D with another w(t), or another memory of Adam's for the size of gradients, which w(t) scales."""
    flags = {"GuidanceParams.weighting": weighting, "OptimizationParams.adam_beta2": f"{beta2:g}"}
    title = f"CoGrad3D, w = {formula}, beta2 {beta2:g}"
    return Variant(_switches(True, "full", True), title, "configs/prompt.yaml", CONTROL, flags=flags)


LUCIDDREAMER = {"clip_b32": 30.02, "clip_b32_std": 1.19, "clip_l14": 27.74, "clip_l14_std": 1.24}
LUCIDDREAMER |= {"vqascore": 0.5702, "image_reward": 0.5022, "janus": 0.2000}
COGRAD3D = {"clip_b32": 31.42, "clip_b32_std": 1.02, "clip_l14": 28.91, "clip_l14_std": 1.21}
COGRAD3D |= {"vqascore": 0.6286, "image_reward": 0.7449, "janus": 0.2250}
VARIANTS: dict[str, Variant] = {
    "plain": Variant(_switches(False, "random", False)),
    "luciddreamer": Variant(
        COGRAD_OFF,
        "LucidDreamer",
        "configs/luciddreamer.yaml",
        "Table 1",
        LUCIDDREAMER,
        toy_title="SDS, CoGrad off",
    ),
    "ism": Variant(
        {**COGRAD_OFF, "GuidanceParams.sds": "false"},
        "LucidDreamer (ISM)",
        "configs/luciddreamer.yaml",
        "Table 1",
        LUCIDDREAMER,
    ),
    "full": Variant(_switches(True, "full", True), "CoGrad3D", "configs/prompt.yaml", "Tables 1 and 2", COGRAD3D),
    "wo_region": Variant(
        _switches(False, "full", True),
        "w/o A (regions)",
        "configs/wo_region.yaml",
        "Table 2",
        {"clip_b32": 28.28, "clip_l14": 24.75, "vqascore": 0.4988, "image_reward": -0.0447},
    ),
    "wo_timestep": Variant(
        _switches(True, "random", True),
        "w/o B (timesteps)",
        "configs/wo_timestep.yaml",
        "Table 2",
        {"clip_b32": 29.03, "clip_l14": 24.91, "vqascore": 0.5310, "image_reward": -0.4829},
    ),
    "wo_fusion": Variant(
        _switches(True, "full", False),
        "w/o C (fusion)",
        "configs/wo_fusion.yaml",
        "Table 2",
        {"clip_b32": 27.97, "clip_l14": 25.21, "vqascore": 0.5541, "image_reward": 0.2448},
    ),
    "schedule_only": Variant(
        _switches(False, "schedule", False),
        "schedule only",
        "configs/schedule_only.yaml",
        CONTROL,
    ),
    "fusion_alone": Variant(_switches(False, "schedule", True)),
    "dreamfusion": _by_law("DreamFusion (SDS)", (24.77, 1.54, 22.62, 1.32, 0.4229, -1.4925, 0.5250), "sds"),
    "gaussiandreamer": _by_law(
        "GaussianDreamer (SDS, its t and clamp)",
        (27.47, 1.22, 25.42, 1.22, 0.4901, 0.0021, 0.3250),
        "sds",
        t_schedule="step",
        t_range_start="0.02 0.98",
        t_range="0.02 0.55",
        t_switch="0.4167",
        grad_clamp="1.5 2",
    ),
    "hifa": _by_law("HiFA", (26.72, 1.62, 24.01, 1.49, 0.4401, -0.7148, 0.4750), "hifa"),
    "perpneg": _by_law("Perp-Neg (SDS)", (26.35, 1.26, 23.70, 1.47, 0.4071, -1.0281, 0.4125), "sds", perpneg="true"),
    "scaledreamer": _by_law("ScaleDreamer (ASD)", (29.85, 1.24, 28.08, 1.10, 0.5601, 0.3810, 0.4375), "asd"),
    "consistent3d": _by_law("Consistent3D (CDS)", (28.76, 1.29, 26.90, 1.23, 0.5349, -0.3084, 0.4625), "cds"),
    "ism_schedule": Variant(
        {**_switches(False, "schedule", False), "GuidanceParams.sds": "false"},
        "LucidDreamer with CoGrad's schedule",
        "configs/schedule_only.yaml",
        CONTROL,
    ),
    "interval_b2_99": _weighted("interval", "sqrt((1 - abar) / abar)", 0.99),
    "sigma_b2_999": _weighted("sigma_squared", "1 - abar", 0.999),
    "sigma_b2_99": _weighted("sigma_squared", "1 - abar", 0.99),
    "uniform_b2_999": _weighted("uniform", "1", 0.999),
    "uniform_b2_99": _weighted("uniform", "1", 0.99),
}
"""plain: uniform regions, uniform timesteps, gradients summed. luciddreamer: CoGrad off, so the config's own camera law
and timestep range. ism: the same by LucidDreamer's ISM; all others distil by SDS in the toy world. wo_region: uniform
regions, local timesteps, fusion. fusion_alone: uniform regions, the schedule's timesteps, fusion."""
ABLATION_VARIANTS = ["plain", "schedule_only", "luciddreamer", "full", "wo_region", "wo_timestep", "wo_fusion"]
TABLE_VARIANTS = [name for name, variant in VARIANTS.items() if variant.config]
TOY_TABLE_VARIANTS = [name for name in TABLE_VARIANTS if VARIANTS[name].paper and not VARIANTS[name].flags]
THEIR_LAWS = [name for name, variant in VARIANTS.items() if variant.paper and variant.flags]
TABLES = {
    "1": [*THEIR_LAWS, "ism", "ism_schedule", "full"],
    "2": ["wo_region", "wo_timestep", "wo_fusion", "full"],
    "weights": ["full", "interval_b2_99", "sigma_b2_999", "sigma_b2_99", "uniform_b2_999", "uniform_b2_99"],
}
"""The paper's tables, and one of w(t) and Adam's beta2 (full: the first w and .999). Of Table 1 TextMesh is missing,
whose part is a surface and no law (docs/distillation.md)."""
COMMON_SETTING = {
    "guidance_scale": "7.5", "weighting": "interval", "t_schedule": "warm_up", "t_range": "0.02 0.5",
    "max_t_range": "0.98", "grad_clamp": "0 0",
}  # fmt: skip
"""For every row: LucidDreamer's; a row with CoGrad's timesteps keeps those."""
MOST_GUIDANCE = {"toy": 7.5, "toy-trained": 2.5}
"""Guidance scales beyond which the toy world's priors over-saturate; 2.5 is configs/toy_trained.yaml's."""
PAPER_VARIANTS = [name for name in TOY_TABLE_VARIANTS if name != "ism"]

CONFIGS = {"ideal": "configs/toy.yaml", "trained": "configs/toy_trained.yaml"}
"""Prior of the toy world -> its settings."""
ABLATION_OUTPUTS = ("--save_video", "false", "--save_process", "false", "--quiet", "true", "--test_ratio", "1",
                    "--save_ratio", "1", "--vis_interval", "1000000")  # fmt: skip
TABLE_OUTPUTS = ("--test_ratio", "1", "--save_ratio", "1", "--save_process", "false", "--quiet", "true")


def _size(steps: int) -> tuple[str, ...]:
    small = ("--image_w", "64", "--image_h", "64", "--init_num_pts", "1500")
    return ("--iterations", str(steps), "--warmup_iter", str(steps), *small)


SET_BY = {
    "GuidanceParams.text": "the run's prompt",
    "seed": "--seeds",
    "GuidanceParams.noise_seed": "--seeds",
    "GuidanceParams.front_bias": "the view words",
}
"""What sets a setting of a cell; a variant's switches and flags are set by the variant."""
SIZES = {"ideal": _size(300), "trained": _size(300)}
"""Prior of the toy world -> flags small enough for a run of less than a minute on one core."""


def toy_flags(
    prior: str, variant: str, prompt: str, seed: int, front_bias: float = 0.0, extra: Sequence[str] = ()
) -> list[str]:
    """train.py's words for one cell of the toy world. `extra` holds for every run; ValueError if it is of the cell."""
    cell = {"GuidanceParams.front_bias": f"{front_bias:g}", "text": prompt, "seed": str(seed), "noise_seed": str(seed)}
    own = {**cell, **VARIANTS[variant].switches, **VARIANTS[variant].flags}
    _refuse_own(extra, [*own, "checkpoint_every"], variant)  # a run of the toy world is not resumed
    return ["--opt", CONFIGS[prior], *ABLATION_OUTPUTS, *SIZES[prior], *extra, *_words(own)]


def _refuse_own(extra: Sequence[str], own: Iterable[str], variant: str) -> None:
    """ValueError where `extra` gives a setting that the run sets itself."""
    labels = map(label_of, own)
    refuse_set(extra, RUN | {label: SET_BY.get(label, f"the variant {variant}") for label in labels})


def _words(flags: Mapping[str, str]) -> list[str]:
    """The command line's words of flags, of which some have several values."""
    values = {name: [value] if name == "text" else value.split() for name, value in flags.items()}
    return [word for name, words in values.items() for word in (f"--{name}", *words)]


def with_flags(run: Run, flags: Mapping[str, str], suffix: str) -> Run:
    """The run with further flags, which override its own, and so another name."""
    name = f"{run.name}-{suffix}"
    return replace(run, name=name, flags=(*run.flags, *settled_words(_words(flags))), facts={**run.facts, "name": name})


def ablation_run(prior: str, front_bias: float, prompt: str, variant: str, seed: int, extra: Sequence[str] = ()) -> Run:
    """One cell and seed of an ablation. front_bias: GuidanceParams.front_bias; 0: full view words."""
    words = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")
    name = f"{prior}-bias{front_bias:g}-{words}-{variant}-seed{seed}"
    facts = {"name": name, "prior": prior, "front_bias": front_bias, "prompt": prompt, "variant": variant, "seed": seed}
    flags = toy_flags(prior, variant, prompt, seed, front_bias, extra)
    return Run(name, tuple(settled_words(flags)), {**facts, "words": "weak" if front_bias else "full"})


def table_run(prior: str, variant: str, prompt: str, seed: int, extra: Sequence[str] = ()) -> Run:
    """One asset of the paper's tables. prior: sd or one of TOY_PRIORS."""
    words = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:60]
    name = f"{variant}-{words}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}-seed{seed}"
    if prior in TOY_PRIORS:
        flags = toy_flags(TOY_PRIORS[prior], variant, prompt, seed, extra=extra)
    else:
        own = {"text": prompt, "seed": str(seed), "noise_seed": str(seed), **VARIANTS[variant].flags}
        _refuse_own(extra, own, variant)
        flags = ["--opt", VARIANTS[variant].config, *TABLE_OUTPUTS, *extra, *_words(own)]
    facts = {"name": name, "prior": prior, "variant": variant, "prompt": prompt, "seed": seed}
    return Run(name, tuple(settled_words(flags)), facts)


def runs_of(make: Callable[..., Run], seeds: int, **axes: Iterable[Any]) -> list[Run]:
    """make(seed=..., **cell) for every cell of the axes, seed by seed: what is stopped early has whole comparisons.

    A value that is given twice counts once.
    """
    cells = product(range(seeds), *map(dict.fromkeys, axes.values()))
    return [make(seed=seed, **dict(zip(axes, values))) for seed, *values in cells]


def config_of(run: Run) -> Config:
    """The settings that train.py would resolve. Raises ConfigError for flags that it would refuse."""
    return load_config(["--opt", str(ROOT / run.flags[1]), *run.flags[2:]])


def configs_of(runs: Sequence[Run]) -> Mapping[str, Config]:
    """One config of each variant and settings file; raises ConfigError before anything runs."""
    first = {(run.facts["variant"], run.flags[1]): run for run in reversed(runs)}
    return {f"{variant}, {path}": config_of(run) for (variant, path), run in first.items()}


def check_regions(config: Config, source: str) -> None:
    """ValueError unless the regions are around the config's own cameras: the variants must see the same view space."""
    for problem in region_problems(config):
        raise ValueError(f"{source}: {problem}")
