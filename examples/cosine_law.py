# SPDX-License-Identifier: Apache-2.0
"""A distillation law of one's own: `python train.py --opt quickstart --distillation examples/cosine_law.py:LAW`.

SDS whose residual counts less where it agrees with the last steps': it is multiplied by 1 - cos of the angle to their
running mean. The mean is kept in `step.memory`, so that a checkpoint has it; it is a mean over views, which with
several processes would differ between them, so that this law is for one process.
"""

import torch
from torch import Tensor

from distillation import DIRECT, Law, Step

KEPT = 0.9


def residual(step: Step) -> Tensor:
    """(1 - cos) (e^g - n) [B,C,h,w]; nothing is remembered at the first step."""
    guided = step.predict(step.x_t, step.index, "guided")["guided"]
    difference = guided - step.noise
    mean = step.memory.get("mean", torch.zeros_like(difference[:1]))
    cos = torch.cosine_similarity(difference.flatten(1), mean.flatten(1), eps=1e-6)
    step.memory["mean"] = KEPT * mean + (1 - KEPT) * difference.mean(dim=0, keepdim=True)
    return (1 - cos).view(-1, 1, 1, 1) * difference


LAW = Law(
    residual,
    preset={"guidance_scale": 7.5, "weighting": "sigma_squared", "t_schedule": "sqrt", "t_range": (0.3, 0.98)},
    reads=DIRECT,
)
