# SPDX-License-Identifier: Apache-2.0
"""GCS, guided consistency sampling: compact and guided consistency on a null trajectory e < p < t.

The third term of the paper's code, which decodes both images, is left out.
"""

from torch import Tensor

from distillation.law import GUIDED, INTERVAL, Law, Step

COMPACT, GUIDED_WEIGHT = 1.0, 0.5
MARGIN = 0.01  # share of the schedule that e stays below p, where it has room


def levels(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """e < p < t [B]: p = t - delta, e uniform in [t - 2 delta, p - 10). Some are equal in a schedule of 1 or 2."""
    delta = step.interval()
    t = step.index.clamp(min=2)
    p = (t - delta).clamp(min=1)
    width = max(delta - round(MARGIN * step.count), 1)
    e = t - 2 * delta + (step.uniform() * width).long()
    e, p, t = (k.clamp(0, step.count - 1) for k in (e.clamp(min=0).minimum(p - 1), p, t))
    return e, p, t


def residual(step: Step) -> Tensor:
    """2 sqrt(abar_e) (x_e|t - x_e|p) + (x0_null - x0_guided), the gradients on x of both squared differences."""
    e, p, t = levels(step)
    x_e = step.noised(e)
    null_e = step.predict(x_e, e, "inverse")["inverse"]
    x_p = step.move(x_e, null_e, e, p)
    x_t = step.move(x_p, step.predict(x_p, p, "inverse")["inverse"], p, t)
    at_t = step.predict(x_t, t, "guided", "inverse")
    x_p_t = step.move(x_t, at_t["guided"], t, p)
    x_e_p = step.move(x_p_t, step.predict(x_p_t, p, "inverse")["inverse"], p, e)
    compact = 2 * COMPACT * step.abar(e).sqrt() * (step.move(x_t, at_t["inverse"], t, e) - x_e_p)
    x_e_t = step.move(x_t, at_t["guided"], t, e)
    x0_guided = step.clean(x_e_t, step.predict(x_e_t, e, "guided")["guided"], e)
    return compact + 2 * GUIDED_WEIGHT * (step.clean(x_e, null_e, e) - x0_guided)


LAW = Law(
    residual,
    {
        "guidance_scale": 7.5,
        "weighting": "uniform",
        "t_schedule": "warm_up",
        "t_range": (0.02, 0.5),
        "max_t_range": 0.98,
    },
    GUIDED | INTERVAL | {"inverse_text"},
)
