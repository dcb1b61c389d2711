# SPDX-License-Identifier: Apache-2.0
"""HiFA: the residual of SDS on the latents and on the decoded image, with timesteps that fall as a square root.

Its z-variance is a term of the whole loss: OptimizationParams.lambda_z_variance, which configs/hifa.yaml sets.
"""

from distillation.law import Law, linear

LAW = Law(
    linear(lambda step: {"guided": 1, "noise": -1}),
    {
        "guidance_scale": 101.0,
        "weighting": "sigma_squared",
        "t_schedule": "sqrt",
        "t_range": (0.3, 0.98),
        "image_residual": 0.01,
    },
)
