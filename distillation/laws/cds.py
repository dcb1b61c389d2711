# SPDX-License-Identifier: Apache-2.0
"""CDS, consistency distillation sampling (Consistent3D): two levels of one ODE step, from one noise for all views.

The sign is the released code's: e^g at the noisier level minus e^g at the other. The loss as the paper words it has the
opposite sign and diverges on a Gaussian.
"""

from torch import Tensor

from distillation.law import GUIDED, Law, Step

GAP = (0.1, 0.3)  # of the two timesteps, as a share of the schedule
LIMITS = (0.1, 0.98)


def levels(step: Step) -> tuple[Tensor, Tensor]:
    """The noisier index t and t1 < t, [B] each. t_schedule gives t1; a planned index is t. The gap is kept."""
    low, high, least, most = (round(share * step.count) for share in (*LIMITS, *GAP))
    gap = least + (step.uniform() * (most - least)).long()
    if step.is_planned:
        return step.index, (step.index - gap).clamp(min=0)
    lower = step.index.clamp(low, high)
    return (lower + gap).clamp(max=high), lower


def residual(step: Step) -> Tensor:
    """e^g(x_t, t) - e^g(x_t1, t1), x_t1 by one step of the guided ODE."""
    upper, lower = levels(step)
    x_t = step.noised(upper)
    guided = step.predict(x_t, upper, "guided")["guided"]
    x_t1 = step.move(x_t, guided, upper, lower)
    return guided - step.predict(x_t1, lower, "guided")["guided"]


LAW = Law(
    residual,
    {
        "guidance_scale": 101.0,
        "guidance_end_share": 51 / 101,
        "weighting": "uniform",
        "t_schedule": "linear",
        "t_range": (0.1, 0.7),
        "noise_source": "fixed",
        "grad_clamp": (2.0, 8.0),
    },
    GUIDED,
)
