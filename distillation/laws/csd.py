# SPDX-License-Identifier: Apache-2.0
"""CSD, classifier score distillation: the direction of the guidance alone, e_c - e_null, later e_c - e_contrast."""

from distillation.law import Coefficient, Law, Step, linear

CHANGED_AT = 0.5  # share of the run over which the null text gives way to the contrast text


def coefficients(step: Step) -> dict[str, Coefficient]:
    """e_c - (1 - r) e_u - r e_contrast, r rising from 0 to 1."""
    r = min(step.progress / CHANGED_AT, 1.0)
    return {"direction": 1, "uncond": r, "contrast": -r}


LAW = Law(
    linear(coefficients),
    {
        "weighting": "uniform",
        "t_schedule": "step",
        "t_range_start": (0.02, 0.98),
        "t_range": (0.02, 0.5),
        "t_switch": 0.5,
        "grad_unit_norm": True,
        "contrast_text": "oversaturated color, ugly, tiling, low quality, noisy",
    },
    frozenset({"noising", "contrast_text"}),
)
