# SPDX-License-Identifier: Apache-2.0
"""Equal terms for a table's rows: a budget of network samples or of time, and one setting."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments import Config, GuidanceParams
from arguments.further import label_of, refuse_set
from cograd.timesteps import global_timestep, log_snr, schedule_progress
from evaluation.experiments.grid import COMMON_SETTING, MOST_GUIDANCE, TOY_PRIORS, config_of, with_flags
from evaluation.experiments.runs import Log, Result, Run, Sweep, read_results, run_all
from guidance import sd_step
from guidance.law_step import StepInfo
from guidance.losses import Loss
from guidance.predictor import Cameras
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from guidance.schedules import window

AZIMUTH_DEG = 45.0  # between front and side, where Perp-Neg has all its texts
TIMES, GOLDEN = 48, (5**0.5 - 1) / 2  # times of a run, and where in the windows of t: multiples of it spread evenly
WARM_UP, TIMED_STEPS = 8, 32


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
    """Network samples of one view in a step, the mean over a run.

    Only inversions depend on the timestep. A cached sample of unet_cache_interval counts as a whole one.
    """
    params, opt = config.guidance, config.optimization
    prior: Any = _Blank(params)
    prompts, loss, x = PromptEmbeddings(prior, params), Loss(params), torch.zeros(1, 1, 1, 1)
    loss.predictor = prior
    counts = []
    for k in range(TIMES):
        progress = (k + 0.5) / TIMES
        warm_up_rate = max(1 - progress * opt.iterations / opt.warmup_iter, 0.0)
        info = StepInfo(warm_up_rate, progress, cameras=Cameras.at([AZIMUTH_DEG]))
        t = _timestep(config, prior, info, share=k * GOLDEN % 1)
        step = loss.view(prior, x, x, torch.tensor([t]), prompts.conditioning([AZIMUTH_DEG]), info)
        with loss.watched():
            loss.law.residual(step)
        counts.append(step.samples)
    return sum(counts) / len(counts)


def _timestep(config: Config, prior: Prior, info: StepInfo, share: float) -> int:
    """A schedule index of that step: CoGrad's, without what regions add to it, or at a share of t_schedule's window."""
    p, last, abar = config.cograd, prior.num_train_timesteps - 1, prior.alphas_cumprod
    if p.enabled and p.timestep_mode != "random":
        low, high = p.t_base_range
        t = global_timestep(schedule_progress(info.progress, p.prog_reading, p.prog_range), log_snr(abar))
        return min(max(int(min(max(t, low), high)), 0), last)
    low, high = window(config.guidance, abar[: last + 1], info.progress, info.warm_up_rate)
    return low + round(share * (high - low))


def in_setting(runs: Sequence[Run], setting: str) -> list[Run]:
    """The runs with their law's "own" numbers, on the toy world with a guidance scale of at most MOST_GUIDANCE, or with
    those of the "common" COMMON_SETTING. Settings are read once a variant: its runs differ in prompt and seed.
    """
    first = {run.facts["variant"]: run for run in reversed(runs)}
    flags = {variant: _flags_in(run, setting) for variant, run in first.items()}
    found = [(run, flags[run.facts["variant"]]) for run in runs]
    return [with_flags(run, own, setting) if own else run for run, own in found]


def _flags_in(run: Run, setting: str) -> dict[str, str]:
    flags = dict(COMMON_SETTING) if setting == "common" else {}
    scale = float(flags.get("guidance_scale", config_of(run).guidance.guidance_scale))
    most = MOST_GUIDANCE.get(run.facts["prior"], math.inf)
    return flags | {"guidance_scale": f"{most:g}"} if scale > most else flags


def refuse_set_by_setting(extra: Sequence[str], runs: Sequence[Run], setting: str) -> None:
    """ValueError where `in_setting` has replaced in `runs` what `extra`, words of the command line, gives."""
    is_capped = any(run.name.endswith(f"-{setting}") for run in runs)
    names = [*COMMON_SETTING] if setting == "common" else ["guidance_scale"] if is_capped else []
    refuse_set(extra, {label_of(name): f"--setting {setting}" for name in names})


def within(run: Run, budget: str, amount: float, of_a_step: float) -> Run:
    """The run with the whole number of steps, at least 1, whose `of_a_step` come nearest to `amount` of the budget."""
    steps = str(max(round(amount / of_a_step), 1))
    is_toy = run.facts["prior"] in TOY_PRIORS
    return with_flags(run, {"iterations": steps, "warmup_iter": steps} if is_toy else {"iterations": steps}, budget)


def samples_a_step(config: Config) -> float:
    """Network samples of one step, all views."""
    return config.guidance.C_batch_size * samples_a_view(config)


def samples_a_step_within(run: Run, amount: float) -> float:
    """Those of the run with the steps that `amount` pays for, of which the warm-up is another share."""
    return samples_a_step(config_of(within(run, "samples", amount, samples_a_step(config_of(run)))))


def step_seconds(log: Log) -> float:
    """Of a step, the median over a run's records without its first WARM_UP."""
    return statistics.median(sum(step["phase_ms"].values()) / 1e3 for step in log[WARM_UP:])


def _pace(folder: Path, log: Log) -> Result:
    return {"step_s": step_seconds(log)}


def paces(runs: Sequence[Run], sweep: Sweep) -> dict[str, float]:
    """Variant -> seconds of a step, timed on the first TIMED_STEPS of a run each, one at a time, in `sweep.out`/pace.

    What was timed before is not timed again. Raises ValueError, one sentence, where one fails.
    """
    first = {run.facts["variant"]: within(run, "pace", TIMED_STEPS, 1) for run in reversed(runs)}
    timing = replace(sweep, out=sweep.out / "pace", measure=_pace, jobs=1, resume=False)
    if failures := run_all(list(first.values()), timing, lambda run, outcome: None):
        raise ValueError(f"--budget minutes could not time a row: {failures[0]}")
    results = read_results(timing.out, [run.name for run in first.values()])
    return {result["variant"]: result["step_s"] for result in results}
