# SPDX-License-Identifier: Apache-2.0
"""VSD, variational score distillation (ProlificDreamer): the noise gives way to a model q of the run's own renders."""

from distillation.law import DIRECT, Law, linear

LAW = Law(
    linear(lambda step: {"guided": 1, "particles": -1}),
    {
        "guidance_scale": 7.5,
        "weighting": "sigma_squared",
        "t_schedule": "step",
        "t_range_start": (0.02, 0.98),
        "t_range": (0.02, 0.5),
        "t_switch": 0.2,
        "camera_guidance": 1.0,
    },
    DIRECT | {"camera_guidance"},
    needs_predictor=True,
)
