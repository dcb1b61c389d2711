# SPDX-License-Identifier: Apache-2.0
"""The networks of the toy prior: a small text encoder, a small U-Net, the noise schedule of Stable Diffusion.

Letters of shapes: B images, K captions, L tokens, D width of a token's embedding, C h w latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from guidance.linear_autoencoder import LinearAutoencoder
from toy.training.tokenizer import LENGTH, build_tokenizer

LATENT_PX = 16


@dataclass(frozen=True)
class Sizes:
    """How large the networks are; `channels` are the U-Net's at 16 x 16, 8 x 8 and 4 x 4."""

    channels: tuple[int, ...] = (48, 80, 112)
    text_width: int = 96
    text_layers: int = 2
    heads: int = 4
    groups: int = 16

    def __post_init__(self) -> None:
        """Raises ValueError for channels of which no U-Net can be built."""
        if len(self.channels) != 3 or min(self.channels) < 1 or any(count % self.groups for count in self.channels):
            given = " ".join(map(str, self.channels))
            raise ValueError(f"channels = {given}: expected three multiples of {self.groups}.")


class PriorNetworks(nn.Module):
    """U-Net and text encoder together, as they are trained and averaged.

    The U-Net predicts the clean latents (prediction_type "sample"): with latents this small, noise is nearly all of the
    input at large t, and a network that predicts noise would spend itself on copying it.
    """

    def __init__(self, sizes: Sizes, latent_channels: int, vocabulary_size: int, start_id: int, end_id: int):
        super().__init__()
        self.unet = build_unet(sizes, latent_channels)
        self.text_encoder = build_text_encoder(sizes, vocabulary_size, start_id, end_id)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token ids [K, L] to embeddings [K, L, D]."""
        return self.text_encoder(token_ids).last_hidden_state

    def predict_clean(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Scaled noisy latents [B, C, h, w] at timesteps t [B] to scaled clean latents."""
        return self.unet(noisy, t, embeddings).sample


def build_unet(sizes: Sizes, latent_channels: int) -> UNet2DConditionModel:
    """One residual layer a block; text enters below the finest level."""
    coarse = len(sizes.channels) - 1
    return UNet2DConditionModel(
        sample_size=LATENT_PX,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * coarse),
        up_block_types=(*("CrossAttnUpBlock2D",) * coarse, "UpBlock2D"),
        block_out_channels=sizes.channels,
        layers_per_block=1,
        cross_attention_dim=sizes.text_width,
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.groups,
        use_linear_projection=True,
    )


def build_text_encoder(sizes: Sizes, vocabulary_size: int, start_id: int, end_id: int) -> CLIPTextModel:
    """CLIP's text model, a few layers deep."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.heads,
            max_position_embeddings=LENGTH,
            bos_token_id=start_id,
            eos_token_id=end_id,
            pad_token_id=end_id,
        )
    )


def build_networks(sizes: Sizes, latent_channels: int, tokenizer: CLIPTokenizer) -> PriorNetworks:
    """Networks with fresh weights from torch's current random state."""
    return PriorNetworks(sizes, latent_channels, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, predicting clean latents."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="sample",
    )


class CaptionTable:
    """Caption -> token ids, remembered, because the same captions come again and again."""

    def __init__(self, tokenizer: CLIPTokenizer | None = None):
        self.tokenizer = tokenizer or build_tokenizer()
        self.rows: dict[str, list[int]] = {}

    def ids(self, captions: Sequence[str]) -> Tensor:
        """Token ids [K, L] of K captions, padded with the end token."""
        missing = [text for text in dict.fromkeys(captions) if text not in self.rows]
        if missing:
            coded = self.tokenizer(missing, padding="max_length", max_length=LENGTH, truncation=True).input_ids
            self.rows.update(zip(missing, coded))
        return torch.tensor([self.rows[text] for text in captions])


@torch.no_grad()
def to_latents(autoencoder: LinearAutoencoder, images: Tensor) -> Tensor:
    """Images [B, 3, S, S] in [0, 1] to scaled latents [B, C, h, w]."""
    return autoencoder.encode(2 * images - 1).latent_dist.mode() * autoencoder.config.scaling_factor


@torch.no_grad()
def to_images(autoencoder: LinearAutoencoder, latents: Tensor) -> Tensor:
    """Scaled latents [B, C, h, w] to images [B, 3, S, S] in [0, 1]."""
    return ((autoencoder.decode(latents / autoencoder.config.scaling_factor).sample + 1) / 2).clamp(0, 1)
