# SPDX-License-Identifier: Apache-2.0
"""Equal terms for a table's rows: the samples that a law asks of the network, a budget of them, a common setting."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from arguments import Config, GuidanceParams
from evaluation.experiments.grid import COMMON_SETTING, TOY_MOST_GUIDANCE, config_of, with_flags
from evaluation.experiments.runs import Run
from guidance import sd_step
from guidance.law_step import StepInfo
from guidance.losses import Loss
from guidance.predictor import Cameras
from guidance.prompts import PromptEmbeddings

AZIMUTH_DEG = 45.0  # between front and side, where Perp-Neg has all its texts
TIMES = 24  # evenly over t_range


class _Blank:
    """A prior and a model of the renders that predict nothing, and so cost nothing."""

    steps_offset = 0

    def __init__(self, params: GuidanceParams) -> None:
        self.alphas_cumprod = sd_step.scaled_linear_alphas().float()
        self.num_train_timesteps = params.num_train_timesteps or len(self.alphas_cumprod)

    def timesteps_of(self, ind_t: Tensor) -> Tensor:
        return ind_t

    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 1, 1)

    def predict_noise(self, x_t: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(x_t)


def samples_a_view(config: Config) -> float:
    """Network samples of one view in a step: the mean over timesteps evenly in the run's range.

    Only inversions depend on the timestep. A cached sample of unet_cache_interval counts as a whole one.
    """
    params, cograd = config.guidance, config.cograd
    prior: Any = _Blank(params)
    prompts, loss, x = PromptEmbeddings(prior, params), Loss(params), torch.zeros(1, 1, 1, 1)
    loss.predictor = prior
    last = prior.num_train_timesteps - 1
    of_cograd = cograd.enabled and cograd.timestep_mode != "random"
    low, high = cograd.t_base_range if of_cograd else (bound * last for bound in params.t_range)
    info, counts = StepInfo(cameras=Cameras.at([AZIMUTH_DEG])), []
    for t in torch.linspace(low, high, TIMES).long().clamp(0, last).tolist():
        step = loss.view(prior, x, x, torch.tensor([t]), prompts.conditioning([AZIMUTH_DEG]), info)
        loss.law.residual(step)
        counts.append(step.samples)
    return sum(counts) / len(counts)


def on_equal_terms(runs: Sequence[Run], budget: str, setting: str, samples: float) -> list[Run]:
    """The runs within a budget ("samples": `samples` of the network each; "steps": as they are) and in a setting.

    setting: "own" numbers of each law, on the toy world with a guidance scale of TOY_MOST_GUIDANCE at most; "common":
    COMMON_SETTING for all.
    """
    return [_on_terms(run, budget, setting, samples) for run in runs]


def _on_terms(run: Run, budget: str, setting: str, samples: float) -> Run:
    is_toy = run.facts["prior"] == "toy"
    if setting == "common":
        run = with_flags(run, COMMON_SETTING, "common")
    elif is_toy and config_of(run).guidance.guidance_scale > TOY_MOST_GUIDANCE:
        run = with_flags(run, {"guidance_scale": f"{TOY_MOST_GUIDANCE:g}"}, "own")
    if budget == "steps":
        return run
    steps = str(steps_within(config_of(run), samples))
    return with_flags(run, {"iterations": steps, "warmup_iter": steps} if is_toy else {"iterations": steps}, budget)


def samples_a_step(config: Config) -> float:
    """Network samples of one step, all views."""
    return config.guidance.C_batch_size * samples_a_view(config)


def steps_within(config: Config, samples: float) -> int:
    """Steps of a run of this config that take as many samples, to the nearest whole step, at least 1."""
    return max(round(samples / samples_a_step(config)), 1)
