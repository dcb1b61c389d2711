# SPDX-License-Identifier: Apache-2.0
"""BSD, balanced score distillation (PlacidDreamer): the minimum-norm point between guidance and e_u."""

from torch import Tensor

from distillation.law import DIRECT, Law, Step


def minimum_norm(c: Tensor, d: Tensor) -> Tensor:
    """alpha c + (1 - alpha) d of least norm, alpha in [0, 1] for each view; c, d [B,C,h,w]."""
    across = d - c
    dims = tuple(range(1, c.ndim))
    square = across.square().sum(dims, keepdim=True)
    alpha = ((across * d).sum(dims, keepdim=True) / square.clamp(min=1e-12)).clamp(0, 1)
    return alpha * c + (1 - alpha) * d


def residual(step: Step) -> Tensor:
    """Of c = g (e_c - e_u) and d = e_u: it works against neither."""
    found = step.predict(step.x_t, step.index, "direction", "uncond")
    return minimum_norm(step.g * found["direction"], found["uncond"])


LAW = Law(
    residual,
    {
        "guidance_scale": 15.0,
        "weighting": "alpha",
        "t_schedule": "warm_up",
        "t_range": (0.02, 0.5),
        "max_t_range": 0.98,
    },
    DIRECT - {"guidance_rescale"},
)
