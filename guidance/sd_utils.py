# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion as a prior: encode, decode, embed text, predict noise.

Everything is frozen and in eval mode.  Half precision stays inside: latents and predictions are float32.
Letters of shapes: B views, K prompts, L tokens, D embedding width, C latent channels, h w latent size, H W image.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from itertools import starmap

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

import guidance.sd_step as sd_step
from arguments import GuidanceParams
from guidance.at_once import AtOnce
from guidance.components import Components
from guidance.controlnet import find_controlnet, load_controlnet, residuals
from guidance.cuda_graphs import GraphedCall
from guidance.execution import Execution, offload, prepare, speed_up
from guidance.feature_cache import DeepFeatures, Features, check_unet, outer_layers
from guidance.lora import merge_lora, read_lora
from guidance.lora_predictor import LoRAPredictor
from guidance.prompts import PromptEmbeddings
from guidance.sources import ModelUnavailable
from guidance.text_encoder import TextEncoder
from guidance.textual_inversion import add_words, read_words
from guidance.tiny_vae import check_images, check_latents, find_tiny_vae, load_tiny_vae
from guidance.weights import load_components
from utils.shard import Shard

__all__ = ["ModelUnavailable", "StableDiffusion"]

logger = logging.getLogger(__name__)

InKnownWords = Callable[[Sequence[str], Collection[str], Sequence[str], str], list[str]]
NetworkCall = Callable[..., tuple[Tensor, ...]]
LEAST_ALPHA = 2.0**-24  # what diffusers' EulerDiscreteScheduler takes for a cumulative alpha of 0


class StableDiffusion:
    """A Stable-Diffusion-shaped pipeline behind the `Prior` protocol; remembers its weights and schedule only."""

    def __init__(
        self,
        guidance_params: GuidanceParams,
        device: torch.device | str,
        in_known_words: InKnownWords | None = None,
    ):
        """Load `guidance_params.model_key` onto `device`.

        in_known_words: (texts, known words, learned words, prompt) -> texts, for a model that lists what it knows.
        Raises ModelUnavailable (a ValueError), and ValueError for settings that the device cannot do.
        """
        self.device = torch.device(device)
        self.execution = Execution.of(guidance_params, self.device)
        self.dtype = self.execution.dtype
        # What can be read in a moment is read before the weights of the model.
        lora = read_lora(guidance_params.LoRA_path) if guidance_params.LoRA_path else None
        embeddings = guidance_params.textual_inversion_path
        words = read_words(embeddings) if embeddings else {}
        control = guidance_params.controlnet_model_key
        control_source = find_controlnet(control) if control else None
        tiny_vae = guidance_params.tiny_vae
        if tiny_vae:
            find_tiny_vae(tiny_vae)
        parts = load_components(guidance_params, self.dtype)
        if lora is not None:
            merge_lora(parts, lora, guidance_params.LoRA_scale)
        add_words(parts, words, f"textual inversion {embeddings}")
        self.controlnet = None if control_source is None else load_controlnet(control_source, parts.unet, self.dtype)
        self.unet, self.vae = parts.unet, parts.vae
        if guidance_params.unet_cache_interval > 1:
            check_unet(self.unet)
        self.text_encoder, self.tokenizer = parts.text_encoder, parts.tokenizer
        self.tiny_vae = load_tiny_vae(tiny_vae, self.vae, self.dtype) if tiny_vae else None
        self.of_unet = AtOnce("U-Net", "GuidanceParams.unet_batch", self.execution.unet_batch)
        self.of_vae = AtOnce("autoencoder", "GuidanceParams.vae_slicing: on", int(self.execution.vae_slicing))
        self.pixels_per_latent = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._place()
        if self.tiny_vae is not None:
            images = check_images(self.pixels_per_latent).to(self.device)
            check_latents(self.encode_imgs_tiny, self._mean_latents, images)
        known_words = None if guidance_params.allow_unknown_words else parts.known_words

        def normalize(texts: Sequence[str], learned: Sequence[str]) -> Sequence[str]:
            if known_words is None or in_known_words is None:
                return texts
            return in_known_words(texts, known_words, learned, guidance_params.text)

        encoder = TextEncoder(parts.tokenizer, parts.text_encoder, parts.learned_words, normalize)
        self._texts: TextEncoder | None = encoder
        self._take_schedule(parts, guidance_params.num_train_timesteps)

    def _place(self) -> None:
        """Freeze the networks, move them to the device, and set them up as `execution` says."""
        execution, device = self.execution, self.device
        self.unet.requires_grad_(False)
        speed_up(self.unet, execution)
        for module in (self.unet, self.vae, self.text_encoder, self.controlnet, self.tiny_vae):
            if module is not None:
                on_call = execution.offload_unet and module is self.unet
                prepare(module, execution, torch.device("cpu") if on_call else device)
        if execution.offload_unet:
            offload(self.unet, device)
        if execution.vae_checkpointing and self.vae._supports_gradient_checkpointing:
            self.vae.enable_gradient_checkpointing(execution.recompute)
        calls: list[NetworkCall] = [self._networks, self._networks_keeping, self._outer_layers]
        graphed: list[NetworkCall] = [*map(GraphedCall, calls)] if execution.cuda_graphs else calls
        self._call_networks, self._call_keeping, self._call_outer = graphed

    def release_text_encoder(self) -> None:
        """Let the text encoder go once every text of the run is embedded."""
        self.text_encoder = self._texts = None

    def _take_schedule(self, parts: Components, num_train_timesteps: int | None) -> None:
        """alphas_cumprod, offset and prediction type from the scheduler's own config."""
        config = parts.scheduler.config
        # A schedule of zero terminal SNR ends at 0, by which x_0 could not be predicted from the noise.
        self.alphas_cumprod: Tensor = parts.scheduler.alphas_cumprod.clamp(min=LEAST_ALPHA).to(self.device)  # [T]
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

    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [K,L,D] float32 of the texts; warns of texts that are cut. ValueError for unknown words."""
        with self.execution.attention():
            return self._text_encoder().embed(texts)

    def shorten(self, text: str, endings: Sequence[str]) -> str:
        """The longest beginning of `text`, in whole words, that the text encoder takes with each of `endings`."""
        return self._text_encoder().shorten(text, endings)

    def _text_encoder(self) -> TextEncoder:
        if self._texts is None:
            raise RuntimeError("the text encoder was released after the prompt; set GuidanceParams.keep_text_encoder")
        return self._texts

    def encode_imgs(
        self, images: Tensor, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Tensor:
        """Scaled latents [B,C,h,w] of images [B,3,H,W] in [0,1]: one sample of the posterior; differentiable.

        shard: the images are this part of a step's, whose noise is drawn whole.
        """
        posterior = DiagonalGaussianDistribution(self._encode(self._moments, images))
        noise = (shard or Shard.whole(len(images))).randn(posterior.mean, generator)
        latents = posterior.mean + posterior.std * noise
        return (latents * self.vae.config.scaling_factor).to(images.dtype)

    def encode_imgs_tiny(
        self, images: Tensor, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Tensor:
        """`encode_imgs` by GuidanceParams.tiny_vae, which has no posterior: nothing is drawn; differentiable."""
        assert self.tiny_vae is not None, "only a run with tiny_vae asks for it"

        def network(part: Tensor) -> Tensor:
            # Of a size that is no multiple, AutoencoderTiny makes one latent more than AutoencoderKL.
            height, width = (side - side % self.pixels_per_latent for side in part.shape[2:])
            return self.tiny_vae.encode(part[..., :height, :width]).latents

        latents = self._encode(network, images)
        return (latents * self.tiny_vae.config.scaling_factor).to(images.dtype)

    def _encode(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """network(images in [-1,1], in the prior's dtype), one view at a time where vae_slicing is on."""
        if min(images.shape[2:]) < self.pixels_per_latent:
            size = f"{images.shape[3]}x{images.shape[2]} px"
            raise ValueError(f"image is {size}; this model needs at least {self.pixels_per_latent} px a side")
        scaled = (2 * images - 1).to(self.dtype)

        def encode(part: Tensor) -> Tensor:
            return self.execution.recompute(network, part) if self.of_vae.most else network(part)

        with self.execution.attention():
            return torch.cat(self.of_vae.run(encode, scaled))

    def _mean_latents(self, images: Tensor) -> Tensor:
        """Scaled latents [B,C,h,w] without the posterior's noise."""
        return self.vae.config.scaling_factor * DiagonalGaussianDistribution(self._encode(self._moments, images)).mean

    def _moments(self, images: Tensor) -> Tensor:
        """Mean and log variance [B,2C,h,w] of the latents of images [B,3,H,W] in [-1,1]."""
        return self.vae.encode(images).latent_dist.parameters

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in [0,1] of scaled latents [B,C,h,w]."""
        unscaled = (latents / self.vae.config.scaling_factor).to(self.dtype)
        with self.execution.attention():
            images = torch.cat(self.of_vae.run(lambda part: self.vae.decode(part).sample, unscaled))
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor, control: Tensor | None = None) -> Tensor:
        """Noise prediction [B,C,h,w] for x_t at timesteps t [B] under embeddings [B,L,D], in x_t's dtype.

        control [B,3,H,W] in [0,1]: the ControlNet's image; None leaves it out.
        """
        inputs = self._inputs(x_t, t, embeddings, *self._control_of(control))
        for attempt in self.of_unet.attempts(len(x_t)):
            with self.execution.attention(), attempt:
                parts = list(starmap(self._call_networks, attempt.split(*inputs)))
        return self.eps_of(torch.cat([output for (output,) in parts]), x_t, t)

    @torch.no_grad()
    def predict_noise_cached(
        self,
        x_t: Tensor,
        t: Tensor,
        embeddings: Tensor,
        control: Tensor | None = None,
        *,
        features: Features | None = None,
    ) -> tuple[Tensor, Features]:
        """`predict_noise`, and the features to keep; with `features` of a call before, by the outer layers alone."""
        if features is None:
            call, more = self._call_keeping, self._control_of(control)
        else:
            call, more = self._call_outer, features
        inputs = self._inputs(x_t, t, embeddings, *more)
        for attempt in self.of_unet.attempts(len(x_t)):
            with self.execution.attention(), attempt:
                parts = list(starmap(call, attempt.split(*inputs)))
        output, *kept = map(torch.cat, zip(*parts, strict=True))
        return self.eps_of(output, x_t, t), tuple(kept) if features is None else features

    def _control_of(self, control: Tensor | None) -> tuple[Tensor, ...]:
        """The further input of the networks' call."""
        if control is None:
            return ()
        if self.controlnet is None:
            raise ValueError("a ControlNet image was given but GuidanceParams.controlnet_model_key is not set")
        return (control,)

    def _inputs(self, x_t: Tensor, t: Tensor, embeddings: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """The inputs of the networks' calls, in the prior's dtype."""
        return x_t.to(self.dtype), t, embeddings.to(self.dtype), *more

    def eps_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise prediction [B,C,h,w] that the U-Net's output means, in x_t's dtype."""
        return sd_step.eps_of(output.to(x_t.dtype), self.prediction_type, x_t, self.alphas_cumprod[t])

    def new_predictor(self, prompts: PromptEmbeddings, seed: int) -> LoRAPredictor:
        """A model of the run's own renders, for VSD and ESD: these weights with a LoRA that the run trains."""
        return LoRAPredictor(self, prompts.embeddings["default"], seed)

    def _networks(self, x: Tensor, t: Tensor, embeddings: Tensor, control: Tensor | None = None) -> Features:
        """The U-Net's output for x [B,C,h,w], t [B], embeddings [B,L,D] and the ControlNet's image [B,3,H,W]."""
        added = {} if control is None else residuals(self.controlnet, x, t, embeddings, control)
        return (self.unet(x, t, encoder_hidden_states=embeddings, **added).sample,)

    def _networks_keeping(self, x: Tensor, t: Tensor, embeddings: Tensor, control: Tensor | None = None) -> Features:
        """The U-Net's output, its deep features, and what the ControlNet adds to the first skip connection."""
        added = {} if control is None else residuals(self.controlnet, x, t, embeddings, control)
        with DeepFeatures(self.unet) as deep:
            output = self.unet(x, t, encoder_hidden_states=embeddings, **added).sample
        return output, deep.value, *added.get("down_block_additional_residuals", ())[:1]

    def _outer_layers(self, x: Tensor, t: Tensor, embeddings: Tensor, *features: Tensor) -> Features:
        return (outer_layers(self.unet, x, t, embeddings, *features),)
