# SPDX-License-Identifier: Apache-2.0
"""SDS-Bridge: SDS at first, then the bridge from a described bad image to a described good one."""

from distillation.law import DIRECT, Coefficient, Law, Step, linear

SECOND_STAGE_AT = 0.8  # share of the run


def coefficients(step: Step) -> dict[str, Coefficient]:
    """(1 - abar) (e^g - n), later g (e_target - e_source): w(t) is inside, the weight outside is uniform."""
    if step.progress >= SECOND_STAGE_AT:
        return {"target": step.g, "source": -step.g}
    w = 1 - step.abar(step.index)
    return {"guided": w, "noise": -w}


LAW = Law(
    linear(coefficients),
    {
        "guidance_scale": 100.0,
        "weighting": "uniform",
        "t_schedule": "step",
        "t_range_start": (0.02, 0.98),
        "t_range": (0.02, 0.5),
        "t_switch": 0.2,
        "source_words": ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, "
        "malformed",
        "target_words": ", detailed high resolution, high quality, sharp",
    },
    DIRECT | {"source_words", "target_words"},
)
