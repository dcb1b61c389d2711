# SPDX-License-Identifier: Apache-2.0
"""A linear autoencoder (principal components of small patches) behind the interface of diffusers' AutoencoderKL.

It stands in for the VAE in the embedded toy prior: nothing to train, exact gradients, one convolution each way.
White, the toy world's background, is latent zero: sampling that starts from pure noise gets no colour cast, and zero
padding inside the U-Net means "more background".

Letters of shapes: B images, H W image in pixels, C latent channels, P = 3 * patch_px^2 numbers of a patch,
h = H / patch_px, w = W / patch_px.
"""

from typing import Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

LOG_VARIANCE = -30.0
"""The posterior's log variance: a sample differs from the mean by about 3e-7, so encoding is all but deterministic."""


class LinearAutoencoder(ModelMixin, ConfigMixin):
    """encode: C numbers per patch, linear in the image minus white; decode: the least-squares way back."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 12,
        patch_px: int = 4,
        scaling_factor: float = 0.35,
        block_out_channels: tuple[int, ...] = (1, 1, 1),
    ):
        """Only the length of block_out_channels means something: callers read 2^(length - 1) = patch_px from it."""
        super().__init__()
        if 2 ** (len(block_out_channels) - 1) != patch_px:
            raise ValueError(
                f"block_out_channels of length {len(block_out_channels)} stands for patches of"
                f" {2 ** (len(block_out_channels) - 1)} pixels, but patch_px is {patch_px}; make the two agree."
            )
        self.encoder = nn.Conv2d(in_channels, latent_channels, patch_px, stride=patch_px)
        self.decoder = nn.ConvTranspose2d(latent_channels, in_channels, patch_px, stride=patch_px)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        images: Tensor,
        latent_channels: int = 12,
        patch_px: int = 4,
        scaling_factor: float = 0.35,
        whitening: float = 0.5,
    ) -> Self:
        """Principal components, about white, of the patches of images [B, 3, H, W] in [-1, 1].

        whitening 0 keeps each component's natural size, 1 makes all equally large; the mean square of a latent number
        over these images becomes 1 (scaling_factor is applied by the caller, as with AutoencoderKL).
        """
        if not 0 < latent_channels <= 3 * patch_px**2:
            raise ValueError(
                f"latent_channels is {latent_channels}; patches of {patch_px} pixels give at most {3 * patch_px**2}."
            )
        length = patch_px.bit_length()
        model = cls(3, latent_channels, patch_px, scaling_factor, (1,) * length)
        patches = nn.functional.unfold((images - 1).double(), patch_px, stride=patch_px)  # [B, P, h*w]
        moment = torch.einsum("bpn,bqn->pq", patches, patches) / (patches.shape[0] * patches.shape[2])
        sizes, vectors = torch.linalg.eigh(moment)
        sizes, vectors = sizes.flip(0)[:latent_channels], vectors.flip(1)[:, :latent_channels]
        gains = sizes.clamp_min(1e-9) ** (-whitening / 2)
        gains /= (gains.square() * sizes).mean().sqrt()
        model._set_linear(vectors * gains, vectors / gains)
        return model

    def _set_linear(self, analysis: Tensor, synthesis: Tensor) -> None:
        """Sets both convolutions from [P, C] matrices, with the biases that make white latent zero."""
        shape = self.encoder.weight.shape
        self.encoder.weight.copy_(analysis.T.reshape(shape))
        self.encoder.bias.copy_(-analysis.sum(0))
        self.decoder.weight.copy_(synthesis.T.reshape(shape))
        self.decoder.bias.fill_(1)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Images [B, 3, H, W] in [-1, 1] to the distribution of unscaled latents [B, C, h, w]."""
        if x.shape[-1] % self.config.patch_px or x.shape[-2] % self.config.patch_px:
            raise ValueError(
                f"The image is {x.shape[-1]} x {x.shape[-2]} pixels; "
                f"both sides must be multiples of {self.config.patch_px}."
            )
        mean = self.encoder(x)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, LOG_VARIANCE)], dim=1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Unscaled latents [B, C, h, w] to images [B, 3, H, W], about [-1, 1], not clipped."""
        sample = self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """There and back: decode(mean of encode(sample))."""
        return self.decode(self.encode(sample).latent_dist.mode(), return_dict)
