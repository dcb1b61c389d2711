# SPDX-License-Identifier: Apache-2.0
"""ISM, interval score matching (LucidDreamer): the guided prediction against that of the DDIM inversion's last step."""

import torch
from torch import Tensor

from distillation.law import GUIDED, INTERVAL, Law, Step


def residual(step: Step) -> Tensor:
    """e^g(x_t, t) - e_inverse(x_prev, t_prev), x_t and x_prev by DDIM inversion of every view to its own index.

    One network call a round for all views that still have a step to take. The inversion is by the inverse text alone,
    or guided when denoise_guidance_scale s exceeds 1: cond + s (uncond - cond), kept from upstream.
    """
    start, rounds = step.interval_rounds()
    x, last, s = step.noised(start), torch.zeros_like(step.x), step.params.denoise_guidance_scale
    for moving in rounds:
        eps = step.predict_rows(x, moving, *(["uncond"] if s > 1 else []), "inverse")
        inverse = eps["inverse"] + s * (eps["uncond"] - eps["inverse"]) if s > 1 else eps["inverse"]
        x, last = step.move_rows(x, last, inverse, moving, step.params.xs_eta)
    return step.predict(x, step.index, "guided")["guided"] - last


LAW = Law(
    residual,
    {
        "guidance_scale": 7.5,
        "weighting": "interval",
        "t_schedule": "warm_up",
        "t_range": (0.02, 0.5),
        "max_t_range": 0.98,
    },
    GUIDED
    | INTERVAL
    | {"inverse_text", "denoise_guidance_scale", "xs_delta_t", "xs_inv_steps", "xs_eta", "unet_cache_interval"},
)
