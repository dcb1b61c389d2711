# SPDX-License-Identifier: Apache-2.0
"""SJC, score Jacobian chaining: its variance-reduced gradient is that of SDS with w(t) = 1."""

from distillation.law import Law, linear

LAW = Law(
    linear(lambda step: {"guided": 1, "noise": -1}),
    {"guidance_scale": 100.0, "weighting": "uniform", "t_schedule": "uniform", "t_range": (0.01, 0.97)},
)
