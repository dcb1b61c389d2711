# SPDX-License-Identifier: Apache-2.0
"""Guidance: what a 2D diffusion prior says about rendered images.

`load_prior` picks the prior by `GuidanceParams.guidance`; everything else works on the `Prior` protocol of score.py.
"""

import torch

from arguments import Config
from guidance.image_size import prior_size_px
from guidance.run_size import RunSize
from guidance.score import Prior

KINDS = ("SD", "ideal")


def load_prior(config: Config, device: torch.device | str) -> Prior:
    """The prior named by `GuidanceParams.guidance`, ready on `device`, for the images and cameras of the run.

    Raises ValueError for an unknown kind or too little memory, ModelUnavailable (a ValueError) when weights are not
    available.
    """
    params = config.guidance
    if params.guidance == "SD":
        from guidance.sd_utils import StableDiffusion  # imported late: diffusers takes seconds to import

        return StableDiffusion(params, device, RunSize.of(config))
    if params.guidance == "ideal":
        from toy.ideal import IdealPrior

        return IdealPrior(params, device, prior_size_px(config.cameras)[1], config.cameras)
    raise ValueError(
        f"GuidanceParams.guidance is {params.guidance!r}; expected one of {', '.join(KINDS)}: "
        "SD for any Stable Diffusion weights, ideal for the built-in closed-form prior"
    )


def release_text_encoder(prior: Prior) -> None:
    """Free what only embedding texts needs, where the prior has such a thing."""
    release = getattr(prior, "release_text_encoder", None)
    if release is not None:
        release()
