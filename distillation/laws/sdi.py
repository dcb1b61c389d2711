# SPDX-License-Identifier: Apache-2.0
"""SDI, score distillation via inversion: SDS as x - x0(e^g), whose noise an inversion away from the text finds."""

from distillation.law import Law, linear

LAW = Law(
    linear(lambda step: {"guided": 1, "noise": -1}),
    {
        "guidance_scale": 7.5,
        "weighting": "interval",
        "t_schedule": "linear",
        "t_range": (0.25, 0.98),
        "noising": "inversion",
    },
)
