# SPDX-License-Identifier: Apache-2.0
"""Timesteps that a run's prior does not have: checked while the settings are read."""

from collections.abc import Iterator

from arguments import Config
from arguments.checks import Problem
from arguments.coerce import show
from guidance.image_size import config_of_model
from guidance.schedules import window
from guidance.sd_step import scaled_linear_alphas

USUAL_TIMESTEPS = 1000


def schedule_notices(config: Config) -> list[str]:
    """A sentence where DreamTime's schedule, whose steps go by w(t), meets a gradient that is weighted by it again."""
    params = config.guidance
    if config.cograd.enabled or params.t_schedule != "dreamtime" or params.weighting != "interval":
        return []
    return ["t_schedule dreamtime goes by w(t), which weighting interval counts again; use --weighting uniform"]


def timestep_problems(config: Config) -> Iterator[Problem]:
    """More timesteps than the model has, or a range without one, for arguments.load.load_config."""
    params = config.guidance
    scheduler = config_of_model(params.model_key, "scheduler/scheduler_config.json") if params.guidance == "SD" else {}
    total = scheduler.get("num_train_timesteps", USUAL_TIMESTEPS)
    used = params.num_train_timesteps or total
    is_known = bool(scheduler) or params.guidance == "ideal"
    if is_known and used > total:
        yield "GuidanceParams.num_train_timesteps", str(used), f"at most {total}, which this model has"
    elif not config.cograd.enabled and params.t_range[0] < params.t_range[1]:
        abar = scaled_linear_alphas(used)
        if any(low > high for low, high in (window(params, abar, progress, 0.0) for progress in (0.0, 1.0))):
            expected = f"a range with a timestep in it, of {used} (num_train_timesteps)"
            yield "GuidanceParams.t_range", show(list(params.t_range)), expected
