# SPDX-License-Identifier: Apache-2.0
"""HiFA's residual on the latents: that of SDS, with timesteps that fall with the square root of the progress."""

from distillation.law import Law, linear

LAW = Law(
    linear(lambda step: {"guided": 1, "noise": -1}),
    {"guidance_scale": 101.0, "weighting": "sigma_squared", "t_schedule": "sqrt", "t_range": (0.3, 0.98)},
)
