# SPDX-License-Identifier: Apache-2.0
"""ASD, asynchronous score distillation (ScaleDreamer): e^g at t against e_c at a slightly noisier t' of the same noise.

Below a critical timestep the residual repels at g = 1; the guidance has to outweigh that.
"""

from torch import Tensor

from distillation.law import GUIDED, Law, Step

ETA = 0.1


def residual(step: Step) -> Tensor:
    """e^g(x_t, t) - e_c(x_t', t'), t' = t + int(u eta (t - t_min)); t_min is the lower end of t_range."""
    t_min = round(step.params.t_range[0] * step.count)
    shift = (step.uniform() * ETA * (step.index - t_min).clamp(min=0)).long()
    later = (step.index + shift).clamp(max=step.count - 1)
    guided = step.predict(step.noised(step.index), step.index, "guided")["guided"]
    return guided - step.predict(step.noised(later), later, "cond")["cond"]


LAW = Law(
    residual,
    {
        "guidance_scale": 7.5,
        "weighting": "sigma_squared",
        "t_schedule": "moving",
        "t_range_start": (0.5, 0.98),
        "t_range": (0.02, 0.5),
    },
    GUIDED | {"t_range"},
    perpneg_factor=0.5,
)
