# SPDX-License-Identifier: Apache-2.0
"""SDS, score distillation sampling (DreamFusion): the guided prediction is compared with the noise, Eq. (5)."""

from distillation.law import Law, linear

LAW = Law(
    linear(lambda step: {"guided": 1, "noise": -1}),
    {"guidance_scale": 101.0, "weighting": "sigma_squared", "t_schedule": "uniform", "t_range": (0.02, 0.98)},
)
