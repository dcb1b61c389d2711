# SPDX-License-Identifier: Apache-2.0
"""SDI's noising: DDIM inversion of rendered views away from the text, each to its own timestep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guidance.feature_cache import inversion_calls

if TYPE_CHECKING:
    from guidance.law_step import ViewStep

SDI_GUIDANCE, SDI_STEPS, SDI_ETA = -7.5, 10, 0.3


def inversion_away(step: ViewStep) -> tuple[Tensor, Tensor]:
    """SDI's: x_t, and the index [B] that it is at, a little above `step.index`.

    Guided by -7.5, steps of a tenth of the schedule (at least 1) from 0 up to t, the last one to t + u/10. Then eta of
    the noise that x_t implies is fresh; the variance is kept (our reading of "plus noise of eta .3").
    """
    stride = max(step.count // SDI_STEPS, 1)
    jitter = (step.uniform() * stride).long()
    index = (step.index + jitter).clamp(max=step.count - 1)
    paths = [[*range(0, max(t, 1), stride), end] for t, end in zip(step.index.tolist(), index.tolist())]
    x = last = step.noised(torch.zeros_like(index))
    for moving in inversion_calls(step.prior, paths, 1):
        found = step.predict_rows(x, moving, "uncond", "direction")
        x, last = step.move_rows(x, last, found["uncond"] + SDI_GUIDANCE * found["direction"], moving)
    a, s = step.abar(index).sqrt(), (1 - step.abar(index)).sqrt()
    implied = (x - a * step.x) / s
    return a * step.x + s * ((1 - SDI_ETA**2) ** 0.5 * implied + SDI_ETA * step.noise), index
