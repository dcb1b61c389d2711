# SPDX-License-Identifier: Apache-2.0
"""HiFA's image residual: with an identity autoencoder it is a share of SDS, and it ends where the prior sees nothing."""

import dataclasses

import pytest
import torch

from arguments import GuidanceParams
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from utils.random_streams import RandomStreams

HIFA = GuidanceParams(text="x", perpneg=False, distillation="hifa", guidance_scale=1.0, weighting="sigma_squared")


class CroppingPrior(GaussianMixturePrior):
    """Sees whole squares of 4 px only, as an autoencoder of 4 px a latent does."""

    def encode_imgs(self, images, generator=None, shard=None):
        height, width = (side // 4 * 4 for side in images.shape[-2:])
        return super().encode_imgs(images[..., :height, :width], generator, shard)


def gradient(image_residual, size=(4, 4), as_latent=False, seed=0):
    """Gradient [2,3,H,W] that the step leaves on the images; the prior's x0 stays inside [0, 1] there."""
    prior = CroppingPrior(0.2 * Draws(3, torch.float64).normal(3, 3, 4, 4), 0.1)
    params = dataclasses.replace(HIFA, image_residual=image_residual)
    rgb = Draws(1, torch.float64).uniform(2, 3, *size).requires_grad_()
    depth = rgb.detach()[:, :1].clone().requires_grad_()
    cond = PromptEmbeddings(prior, params).conditioning([0.0, 120.0])
    done = distill_views(
        prior, rgb, depth, torch.zeros(2, 1, *size), cond, Loss(params), RandomStreams(seed),
        warm_up_rate=0.0, as_latent=as_latent, memory=NoiseMemory(), ind_t=torch.tensor([100, 700]),
    )  # fmt: skip
    done.backward()
    assert done.finite_per_view.all()
    return rgb.grad


@pytest.mark.parametrize("seed", [0, 1, 2, 3])  # of which some mirror the views
def test_with_an_identity_autoencoder_it_is_a_share_of_the_latents_residual(seed):
    """x = 2 I - 1: the latents' residual comes back doubled, the image's own is half of it. C1 of SDS."""
    alone, both = gradient(0.0, seed=seed), gradient(0.5, seed=seed)
    torch.testing.assert_close(both, alone * (1 + 0.5 / 4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_pixels_that_the_prior_does_not_see_get_none(seed):
    """They are the last rows, and the last columns of what may be mirrored."""
    alone, both = gradient(0.0, (6, 5), seed=seed), gradient(0.5, (6, 5), seed=seed)
    torch.testing.assert_close(both, alone * (1 + 0.5 / 4), rtol=1e-9, atol=1e-12)
    assert int((both != 0).sum()) == 2 * 3 * 16


def test_a_step_that_encodes_the_disparity_has_none():
    assert gradient(0.5, as_latent=True) is None


def test_hifas_preset_has_it_and_no_other_law():
    from distillation import LAWS

    weights = {name: law.preset.get("image_residual", 0.0) for name, law in LAWS.items()}
    assert weights.pop("hifa") == 0.01 and not any(weights.values())
