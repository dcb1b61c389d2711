# SPDX-License-Identifier: Apache-2.0
"""The parts of a text-to-image model, and the checks that they are those of one plain Stable Diffusion model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from guidance.sd_step import PREDICTION_TYPES
from guidance.sources import ModelUnavailable
from guidance.weight_files import NETWORKS
from utils.wording import counted

# What a U-Net's config asks for beside latents, time and text; of a plain one each is unset.
OTHER_INPUTS = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "addition_embed_type": "sizes or images",
    "encoder_hid_dim_type": "the features of another encoder",
    "time_cond_proj_dim": "the guidance scale, as a latent consistency model does",
}


@dataclass
class Components:
    """The parts of a text-to-image pipeline that distillation uses; typed Any, for their libraries give no types.

    `known_words`: all words that a model of a small world was trained on (tokenizer/words.txt, one a line), else None.
    `learned_words`: words that were added, with the number of their vectors.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    known_words: frozenset[str] | None = None
    learned_words: dict[str, int] = field(default_factory=dict)


def check_fit(components: Components, source: str) -> None:
    """Raise ModelUnavailable unless the parts form one plain text-to-image model, with finite weights."""
    check_configs(components, source)
    for part in NETWORKS:
        check_finite(getattr(components, part), f"{source}: {part}")


def check_configs(components: Components, source: str) -> None:
    """`check_fit` without the weights."""
    for problem in (*_misfits(components), *_schedule_problems(components.scheduler)):
        raise ModelUnavailable(f"{source}: {problem}")


def check_finite(module: Any, told: str) -> None:
    """Raise ModelUnavailable for the first weight that is not finite in the dtype that it was loaded in."""
    for name, weight in module.named_parameters():
        if not bool(torch.stack(torch.aminmax(weight.detach())).isfinite().all()):
            kind = str(weight.dtype).removeprefix("torch.")
            remedy = "" if weight.dtype == torch.float32 else ", or set GuidanceParams.precision to float32"
            raise ModelUnavailable(f"{told} weight {name} is not finite in {kind}; fetch the model again{remedy}")


def _misfits(components: Components) -> Iterator[str]:
    unet, vae, tokenizer = components.unet.config, components.vae.config, components.tokenizer
    plain = "use a plain text-to-image model"
    if unet.in_channels != vae.latent_channels:
        yield (
            f"the U-Net takes {unet.in_channels} channels but the autoencoder makes {vae.latent_channels}; "
            f"inpainting, upscaling and depth models are no priors for this, {plain}"
        )
    if unet.out_channels != vae.latent_channels:
        yield (
            f"the U-Net makes {unet.out_channels} channels but the autoencoder takes {vae.latent_channels}; "
            f"models that also predict a variance are not supported, {plain}"
        )
    for key, kind in OTHER_INPUTS.items():
        if unet.get(key) is not None:
            yield f"the U-Net's config has {key} {unet.get(key)!r}: it needs {kind}; {plain}"
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(key):
            yield f"the autoencoder's config has {key}, which Stable Diffusion 1.x and 2.x do not have; {plain}"
    width = components.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        yield (
            f"the text encoder is {width} wide but the U-Net expects {unet.cross_attention_dim}; "
            "the parts belong to different models, take all from one"
        )
    known = components.text_encoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        yield (
            f"the tokenizer has {counted(len(tokenizer), 'word')} but the text encoder {known}; "
            "the parts belong to different models, take all from one"
        )


def _schedule_problems(scheduler: Any) -> Iterator[str]:
    config = scheduler.config
    if config.prediction_type not in PREDICTION_TYPES:
        yield (
            f"scheduler prediction_type is {config.prediction_type!r}; expected one of {', '.join(PREDICTION_TYPES)}, "
            "use such a model"
        )
    total, betas = config.num_train_timesteps, scheduler.betas
    if len(betas) != total:
        yield f"the scheduler has {len(betas)} trained_betas for {counted(total, 'timestep')}; correct its config"
    if not bool(((betas > 0) & (betas <= 1)).all()):
        yield "the scheduler's betas are not all above 0 and at most 1; correct its config"
    if not isinstance(config.steps_offset, int) or not 0 <= config.steps_offset < total:
        steps = counted(total, "timestep")
        yield f"scheduler steps_offset is {config.steps_offset}; expected at least 0 and less than {steps}"
