# SPDX-License-Identifier: Apache-2.0
"""SCTD, segmented consistency trajectory distillation (SegmentDreamer): consistency within segments of the schedule."""

import torch
from torch import Tensor

from distillation.law import GUIDED, Law, Step

SEGMENTS, SPAN = 5, (0.02, 0.98)
LEAST, MARGIN, DIRECT_BELOW = 0.08, 0.01, 0.15  # shares of the schedule


def levels(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """e < p < t [B]: the segment's lower edge, a uniform index between, and t, raised to e + 80 of 1000."""
    low, high = SPAN
    edges = torch.tensor([low + (high - low) * k / SEGMENTS for k in range(SEGMENTS)], dtype=torch.float64)
    edges = (edges * step.count).round().long()
    e = edges[(torch.searchsorted(edges, step.index.contiguous()) - 1).clamp(min=0)]
    t = torch.maximum(step.index, e + round(LEAST * step.count)).clamp(max=step.count - 1)
    margin = round(MARGIN * step.count)
    p = e + margin + (step.uniform() * (t - e - 2 * margin)).long()
    p = torch.minimum(torch.maximum(p, e + 1), t - 1).clamp(min=0)  # in a schedule of 1 there is none between
    return e, p, t


def residual(step: Step) -> Tensor:
    """(x_e|p - x_e) + (g + 1) (x_e - x_e|t): null steps up to t, guided steps down."""
    e, p, t = levels(step)
    x_e = step.noised(e)
    null = step.predict(x_e, e, "inverse")["inverse"]
    x_t = step.move(x_e, null, e, t)
    if bool((t >= DIRECT_BELOW * step.count).any()):
        x_p = step.move(x_e, null, e, p)
        by_p = step.move(x_p, step.predict(x_p, p, "inverse")["inverse"], p, t)
        x_t = torch.where((t >= DIRECT_BELOW * step.count).view(-1, 1, 1, 1).to(x_t.device), by_p, x_t)
    guided = step.predict(x_t, t, "guided")["guided"]
    x_p_t = step.move(x_t, guided, t, p)
    x_e_p = step.move(x_p_t, step.predict(x_p_t, p, "inverse")["inverse"], p, e)
    x_e_t = step.move(x_t, guided, t, e)
    return (x_e_p - x_e) + (step.g + 1) * (x_e - x_e_t)


LAW = Law(
    residual,
    {
        "guidance_scale": 7.5,
        "weighting": "interval",
        "t_schedule": "uniform",
        "t_range": (0.02, 0.98),
        "noise_source": "fixed",
    },
    GUIDED | {"inverse_text"},
)
