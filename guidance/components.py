# SPDX-License-Identifier: Apache-2.0
"""The parts of a text-to-image model, from a folder in diffusers layout: with their weights, or their shapes alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from guidance.model_checks import read_json, read_words
from guidance.sources import HOW_TO_GET, ModelUnavailable, quiet
from guidance.weight_files import load_part
from utils.failures import first_line


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


def load_folder(folder: Path, dtype: torch.dtype) -> Components:
    """The parts with their weights in `dtype`.  Raises ModelUnavailable."""
    from diffusers import UNet2DConditionModel
    from diffusers.utils import is_accelerate_available
    from transformers import CLIPTextModel

    words = folder / "tokenizer" / "words.txt"
    options: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
    return Components(
        unet=load_part(folder / "unet", UNet2DConditionModel.from_pretrained, **options),
        vae=load_part(folder / "vae", _vae_class(folder).from_pretrained, **options),
        text_encoder=load_part(folder / "text_encoder", CLIPTextModel.from_pretrained, dtype=dtype),
        tokenizer=load_tokenizer(folder),
        scheduler=load_scheduler(folder),
        known_words=read_words(words) if words.is_file() else None,
    )


def load_shapes(folder: Path) -> Components:
    """The parts with networks on torch's meta device, from their configs alone.  Raises ModelUnavailable."""
    unet, vae, text_encoder = networks(folder)
    return Components(unet, vae, text_encoder, load_tokenizer(folder), load_scheduler(folder))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a pipeline's folder.  Raises ModelUnavailable."""
    from transformers import AutoTokenizer

    return load_part(folder / "tokenizer", AutoTokenizer.from_pretrained, info=False)


def load_scheduler(folder: Path) -> Any:
    """The noise schedule of a pipeline's folder.  Raises ModelUnavailable."""
    from diffusers import DDIMScheduler

    return load_part(folder / "scheduler", DDIMScheduler.from_pretrained, info=False)


def networks(folder: Path) -> list[Any]:
    """U-Net, autoencoder and text encoder of a pipeline's folder on the meta device.  Raises ModelUnavailable."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    found = []
    for part, kind in (("unet", UNet2DConditionModel), ("vae", _vae_class(folder)), ("text_encoder", CLIPTextModel)):
        path = folder / part
        try:
            with quiet(), torch.device("meta"):
                if kind is CLIPTextModel:
                    found.append(CLIPTextModel(CLIPTextConfig.from_pretrained(str(path))))
                else:
                    found.append(kind.from_config(kind.load_config(str(path))))
        except Exception as error:  # a config can be wrong in every way that either library's constructors notice
            raise ModelUnavailable(
                f"{path / 'config.json'} describes no network ({first_line(error)}); fetch the model again"
            ) from error
    return found


def _vae_class(folder: Path) -> Any:
    """The autoencoder class that vae/config.json names."""
    config = folder / "vae" / "config.json"
    name = read_json(config).get("_class_name")
    if name == "AutoencoderKL":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if name == "LinearAutoencoder":
        from guidance.linear_autoencoder import LinearAutoencoder

        return LinearAutoencoder
    raise ModelUnavailable(f"{config} names class {name!r}; expected AutoencoderKL or LinearAutoencoder; {HOW_TO_GET}")
