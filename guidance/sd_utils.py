# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion as a prior: encode, decode, embed text, predict noise.

Everything is frozen and in eval mode.  Half precision stays inside, and on a GPU only: latents and predictions are
float32.
Letters of shapes: B views, K prompts, L tokens, D embedding width, C latent channels, h w latent size, H W image.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import guidance.sd_step as sd_step
from arguments import GuidanceParams
from guidance.controlnet import find_controlnet, load_controlnet, residuals
from guidance.lora import merge_lora, read_lora
from guidance.sources import ModelUnavailable
from guidance.weights import Components, load_components
from utils.distributed import Share

__all__ = ["ModelUnavailable", "StableDiffusion"]

logger = logging.getLogger(__name__)


class StableDiffusion:
    """A Stable-Diffusion-shaped pipeline behind the `Prior` protocol; remembers its weights and schedule only."""

    def __init__(self, guidance_params: GuidanceParams, device: torch.device | str):
        """Load `guidance_params.model_key` onto `device`.  Raises ModelUnavailable (a ValueError)."""
        self.device = torch.device(device)
        half = guidance_params.fp16 and self.device.type == "cuda"
        self.dtype = torch.float16 if half else torch.float32
        # What can be read in a moment is read before the weights of the model.
        lora = read_lora(guidance_params.LoRA_path) if guidance_params.LoRA_path else None
        control = guidance_params.controlnet_model_key
        control_source = find_controlnet(control) if control else None
        parts = load_components(guidance_params, self.dtype)
        if lora is not None:
            merge_lora(parts, lora, guidance_params.LoRA_scale)
        self.controlnet = None if control_source is None else load_controlnet(control_source, parts.unet, self.dtype)
        for module in (parts.unet, parts.vae, parts.text_encoder, self.controlnet):
            if module is None:
                continue
            module.requires_grad_(False).eval().to(self.device)
        self.unet, self.vae = parts.unet, parts.vae
        self.text_encoder, self.tokenizer = parts.text_encoder, parts.tokenizer
        self.known_words = parts.known_words
        self._take_schedule(parts, guidance_params.num_train_timesteps)
        self.pixels_per_latent = 2 ** (len(parts.vae.config.block_out_channels) - 1)

    def _take_schedule(self, parts: Components, num_train_timesteps: int | None) -> None:
        """alphas_cumprod, offset and prediction type from the scheduler's own config."""
        config = parts.scheduler.config
        self.alphas_cumprod: Tensor = parts.scheduler.alphas_cumprod.to(self.device)  # [T]
        self.num_train_timesteps: int = num_train_timesteps or config.num_train_timesteps
        if self.num_train_timesteps > config.num_train_timesteps:
            raise ValueError(
                f"GuidanceParams.num_train_timesteps is {num_train_timesteps}; this model has "
                f"{config.num_train_timesteps}, use at most that"
            )
        self.steps_offset: int = config.steps_offset
        self.prediction_type: str = config.prediction_type

    def timesteps_of(self, ind_t: Tensor) -> Tensor:
        """Timesteps [B] of schedule indices [B]: ind_t + steps_offset, at most T - 1."""
        total = len(self.alphas_cumprod)
        return sd_step.timesteps_of_indices(ind_t, self.num_train_timesteps, total, self.steps_offset)

    @torch.no_grad()
    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [K,L,D] float32 of the texts; warns of a text that is cut, and of words that mean nothing here."""
        self._warn_of_unknown_words(texts)
        limit = self.text_encoder.config.max_position_embeddings
        for text in texts:
            count = len(self.tokenizer(text).input_ids)
            if count > limit:
                logger.warning("prompt has %d tokens, the last %d are cut: %s", count, count - limit, text)
        options = {"padding": "max_length", "max_length": limit, "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer(list(texts), **options)
        return self.text_encoder(tokens.input_ids.to(self.device))[0].float()

    def _warn_of_unknown_words(self, texts: Sequence[str]) -> None:
        if self.known_words is None:
            return
        asked = dict.fromkeys(word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower()))
        unknown = [word for word in asked if word not in self.known_words]
        if unknown:
            logger.warning(
                "this model was never told what %s means; it knows: %s",
                ", ".join(map(repr, unknown)),
                ", ".join(sorted(self.known_words)),
            )

    def encode_imgs(
        self, images: Tensor, generator: torch.Generator | None = None, share: Share | None = None
    ) -> Tensor:
        """Scaled latents [B,C,h,w] of images [B,3,H,W] in [0,1]: one sample of the posterior; differentiable.

        share: the images are this part of a step's, whose noise is drawn whole.
        """
        if min(images.shape[2:]) < self.pixels_per_latent:
            size = f"{images.shape[3]}x{images.shape[2]} px"
            raise ValueError(f"image is {size}; this model needs at least {self.pixels_per_latent} px a side")
        posterior = self.vae.encode((2 * images - 1).to(self.dtype)).latent_dist
        noise = (share or Share.whole(len(images))).randn(posterior.mean, generator)
        latents = posterior.mean + posterior.std * noise
        return (latents * self.vae.config.scaling_factor).to(images.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in [0,1] of scaled latents [B,C,h,w]."""
        images = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.dtype)).sample
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor, control: Tensor | None = None) -> Tensor:
        """Noise prediction [B,C,h,w] for x_t at timesteps t [B] under embeddings [B,L,D], in x_t's dtype.

        control [B,3,H,W] in [0,1]: the picture that the ControlNet shows to the U-Net; None leaves it out.
        """
        x, embeddings = x_t.to(self.dtype), embeddings.to(self.dtype)
        added: dict[str, Any] = {}
        if control is not None:
            if self.controlnet is None:
                raise ValueError("a ControlNet picture was given but GuidanceParams.controlnet_model_key is not set")
            added = residuals(self.controlnet, x, t, embeddings, control)
        output = self.unet(x, t, encoder_hidden_states=embeddings, **added).sample.to(x_t.dtype)
        return sd_step.eps_of(output, self.prediction_type, x_t, self.alphas_cumprod[t])
