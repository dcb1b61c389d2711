# SPDX-License-Identifier: Apache-2.0
"""Guidance: what a 2D diffusion prior says about rendered images.

`load_prior` picks the prior by `GuidanceParams.guidance`; everything else works on the `Prior` protocol of score.py.
"""

import torch

from arguments import Config, GenerateCamParams, GuidanceParams
from guidance.score import Prior

KINDS = ("SD", "ideal")


def load_prior(
    guidance_params: GuidanceParams,
    device: torch.device | str,
    resolution_px: int,
    cam_params: GenerateCamParams | None = None,
    config: Config | None = None,
) -> Prior:
    """The prior named by `guidance_params.guidance`, ready on `device`.

    resolution_px is the side of the training images and cam_params the run's cameras: the ideal prior renders its own
    pictures for both.  With the run's whole config its memory is estimated before weights are read.
    Raises ValueError for an unknown kind or too little memory, ModelUnavailable (a ValueError) when weights cannot be
    had.
    """
    if guidance_params.guidance == "SD":
        from guidance.preflight import RunSize  # imported late: diffusers takes seconds to import
        from guidance.sd_utils import StableDiffusion

        return StableDiffusion(guidance_params, device, RunSize.of(config) if config else None)
    if guidance_params.guidance == "ideal":
        from guidance.ideal import IdealPrior

        return IdealPrior(guidance_params, device, resolution_px, cam_params)
    raise ValueError(
        f"GuidanceParams.guidance is {guidance_params.guidance!r}; expected one of {', '.join(KINDS)}: "
        "SD for any Stable Diffusion weights, ideal for the built-in closed-form prior"
    )


def release_text_encoder(prior: Prior) -> None:
    """Free what only embedding texts needs, where the prior has such a thing."""
    release = getattr(prior, "release_text_encoder", None)
    if release is not None:
        release()
