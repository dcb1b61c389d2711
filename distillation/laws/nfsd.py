# SPDX-License-Identifier: Apache-2.0
"""NFSD, noise-free score distillation: delta_D + g delta_C, from SDS-Bridge's account of it."""

import torch

from distillation.law import DIRECT, Coefficient, Law, Step, linear

LOW_NOISE = 0.2  # share of the schedule below which e_u itself is the domain's direction


def coefficients(step: Step) -> dict[str, Coefficient]:
    """g (e_c - e_u) + e_u where t < 200 of 1000, g (e_c - e_u) + e_u - e_contrast above."""
    is_noisy = (step.index >= LOW_NOISE * step.count).view(-1, 1, 1, 1)
    return {"direction": step.g, "uncond": 1, "contrast": -torch.where(is_noisy, 1.0, 0.0).to(step.x)}


LAW = Law(
    linear(coefficients),
    {
        "guidance_scale": 7.5,
        "weighting": "sigma_squared",
        "t_schedule": "uniform",
        "t_range": (0.02, 0.98),
        "contrast_text": "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
        "low-resolution, gloomy",
    },
    DIRECT - {"guidance_rescale"} | {"contrast_text"},
)
