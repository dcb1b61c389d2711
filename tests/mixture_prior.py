# SPDX-License-Identifier: Apache-2.0
"""Exact denoisers: the noise prediction of a Gaussian mixture, in closed form.

If clean latents follow sum_m w_m N(mu_m, std^2 I), then x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps follows
sum_m w_m N(sqrt(abar) mu_m, v I) with v = abar std^2 + 1 - abar, and the best prediction of eps is
-sqrt(1 - abar) * grad log p_t(x_t).  No weights, so guidance can be checked against formulas.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

import guidance.sd_step as sd_step
from utils.shard import Shard


def mixture_eps(x_t: Tensor, alpha_bar: Tensor, means: Tensor, log_weights: Tensor, std: float) -> Tensor:
    """The noise prediction of a Gaussian mixture, E[eps | x_t] = -sqrt(1 - abar) grad log p_t(x_t).

    x_t [B,D], alpha_bar [B], means [M,D], log_weights [M] or [B,M] (need not be normalised; -inf switches a
    component off), std of every component.  Returns eps [B,D] in x_t's dtype.
    """
    root = alpha_bar.sqrt()[:, None]  # [B,1]
    variance = (alpha_bar * std**2 + 1 - alpha_bar)[:, None]  # [B,1]
    # |x_t|^2 is the same for every component and cancels in the softmax; leaving it out keeps precision.
    centre = means.mean(dim=0)  # [D]
    offsets = means - centre  # [M,D]
    dots = (x_t - root * centre) @ offsets.T  # [B,M]
    half_norms = offsets.square().sum(dim=1) / 2  # [M]
    logits = log_weights + (root * dots - alpha_bar[:, None] * half_norms) / variance
    responsibility = torch.exp(logits - torch.logsumexp(logits, dim=1, keepdim=True))  # [B,M]
    posterior_mean = centre + responsibility @ offsets  # [B,D]
    return (x_t - root * posterior_mean) * (1 - alpha_bar).sqrt()[:, None] / variance


class GaussianMixturePrior:
    """The `Prior` protocol with the exact score of a Gaussian mixture in latent space, in the dtype of its means.

    Remembers the components and, for each known text, their weights.  An embedding [1,M] is the row of weights itself,
    so that blending two embeddings blends their mixtures.  Latents are the image itself, 2x - 1 (C = 3, h w = H W).
    """

    steps_offset = 1

    def __init__(self, means: Tensor, std: float, weights_of_text: dict[str, Tensor] | None = None):
        """means [M,C,h,w]; std of each component; weights_of_text: text -> weights [M] (others: all alike)."""
        if means.ndim != 4 or std < 0:
            raise ValueError(f"means have shape {tuple(means.shape)} and std is {std}; expected [M,C,h,w] and std >= 0")
        self.means, self.std = means, std
        self.weights_of_text = weights_of_text or {}
        self.alphas_cumprod = sd_step.scaled_linear_alphas().to(means)
        self.num_train_timesteps = len(self.alphas_cumprod)

    def timesteps_of(self, ind_t: Tensor) -> Tensor:
        """Timesteps [B] of schedule indices [B]."""
        return sd_step.timesteps_of_indices(
            ind_t, self.num_train_timesteps, self.num_train_timesteps, self.steps_offset
        )

    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Weights of the components for each text: [K,1,M]."""
        alike = self.means.new_ones(len(self.means))
        return torch.stack([self.weights_of_text.get(text, alike).to(self.means) for text in texts])[:, None]

    def encode_imgs(
        self, images: Tensor, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Tensor:
        """2x - 1 of images [B,3,H,W] in [0,1]; nothing is drawn."""
        return 2 * images.to(self.means.dtype) - 1

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in [0,1]."""
        return (latents / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Exact E[eps | x_t] [B,C,h,w] under each view's mixture; embeddings [B,1,M]."""
        eps = mixture_eps(
            x_t.flatten(1), self.alphas_cumprod[t], self.means.flatten(1), embeddings[:, 0].log(), self.std
        )
        return eps.view_as(x_t)
