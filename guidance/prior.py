# SPDX-License-Identifier: Apache-2.0
"""What distillation needs of a 2D diffusion model.

Letters of shapes: B views, C latent channels, h w latent size, H W image, L tokens, D embedding width, K texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from utils.shard import Shard


class Prior(Protocol):
    """A 2D diffusion model."""

    alphas_cumprod: Tensor  # [T] on the prior's device
    num_train_timesteps: int  # number of schedule indices that ind_t runs over
    steps_offset: int

    def timesteps_of(self, ind_t: Tensor) -> Tensor:
        """Timesteps that the network is called with, for schedule indices [B]."""

    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        """[K,L,D]; a prior whose texts have a greatest length has `shorten` beside it, as StableDiffusion."""

    def encode_imgs(
        self, images: Tensor, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Tensor:
        """Images [B,3,H,W] in [0,1] -> scaled latents [B,C,h,w]; differentiable.

        shard: the images are this part of a step's; what is drawn, is drawn for all of it.
        """

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [B,C,h,w] -> images [B,3,H,W] in [0,1]."""

    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Noise prediction for x_t [B,C,h,w] at t [B] given embeddings [B,L,D]; no gradient.

        A prior with a ControlNet takes a fourth argument: its conditioning images [B,3,H,W] in [0,1].
        """


@dataclass(frozen=True)
class Conditioning:
    """What a batch of views is conditioned on.

    `negatives` holds (embeddings [B,L,D], weights [B]) and is empty without Perp-Neg; `control` is the ControlNet's
    image [B,3,H,W] in [0,1], flipped as the latents are, None without one; `further` holds the texts of some laws.
    """

    uncond: Tensor  # [B,L,D]
    positive: Tensor  # [B,L,D]
    inverse: Tensor  # [B,L,D], used alone by the DDIM inversion
    negatives: tuple[tuple[Tensor, Tensor], ...] = ()
    control: Tensor | None = None
    further: Mapping[str, Tensor] = field(default_factory=dict)  # contrast, source, target: [B,L,D]

    def control_for(self, texts: int, rows: Tensor | None) -> tuple[Tensor, ...]:
        """Further arguments of `predict_noise`: the control images of the views `rows`, repeated for each text."""
        if self.control is None:
            return ()
        images = self.control if rows is None else self.control[rows]
        return (images.repeat(texts, 1, 1, 1),)
