# SPDX-License-Identifier: Apache-2.0
"""The prior of a run: the 2D diffusion model that `GuidanceParams.guidance` names, and the prompt's embeddings."""

import torch

from arguments import Config
from guidance.image_size import prior_size_px
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from guidance.score import Encode
from guidance.tiny_vae import uses_tiny_vae
from toy.prompt_words import in_known_words


def _stable_diffusion(config: Config, device: torch.device | str) -> Prior:
    from guidance.sd_utils import StableDiffusion  # imported late: diffusers takes seconds to import

    return StableDiffusion(config.guidance, device, in_known_words)


def _ideal(config: Config, device: torch.device | str) -> Prior:
    from toy.ideal import IdealPrior

    return IdealPrior(config.guidance, device, prior_size_px(config.cameras)[1], config.cameras)


PRIORS = {"SD": _stable_diffusion, "ideal": _ideal}
"""Value of `GuidanceParams.guidance` -> makes the prior from (config, device)."""


def load_prior(config: Config, device: torch.device | str) -> Prior:
    """The prior named by `GuidanceParams.guidance`, on `device`, for the images and cameras of the run.

    Raises ModelUnavailable (a ValueError) when weights are not available.
    """
    return PRIORS[config.guidance.guidance](config, device)


def load_prior_and_prompts(config: Config, device: torch.device) -> tuple[Prior, PromptEmbeddings]:
    """The prior and the prompt's embeddings; frees the text encoder unless keep_text_encoder. Raises ValueError."""
    prior = load_prior(config, device)
    prompts = PromptEmbeddings(prior, config.guidance)
    release = getattr(prior, "release_text_encoder", None)
    if release is not None and not config.guidance.keep_text_encoder:
        release()
    return prior, prompts


def encoder_at(prior: Prior, config: Config, iteration: int) -> Encode:
    """What encodes the rendered images of this iteration: tiny_vae in the run's first share, then the prior's own."""
    if uses_tiny_vae(config.guidance, iteration, config.optimization.iterations):
        return prior.encode_imgs_tiny  # type: ignore[attr-defined]
    return prior.encode_imgs
