# SPDX-License-Identifier: Apache-2.0
"""A model's networks without their weights: built from its configs on torch's meta device, in about a second."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from guidance.components import Components
from guidance.sources import ModelUnavailable, first_line, quiet
from guidance.weight_files import load_part
from guidance.weights import vae_class


def networks(folder: Path) -> tuple[Any, Any, Any]:
    """U-Net, autoencoder and text encoder of the pipeline in `folder`, on the meta device.  Raises ModelUnavailable."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    autoencoder = vae_class(folder)

    def text_encoder(path: str) -> Any:
        return CLIPTextModel(CLIPTextConfig.from_pretrained(path))

    def of_diffusers(kind: Any, path: str) -> Any:
        return kind.from_config(kind.load_config(path))

    builders: dict[str, Callable[[str], Any]] = {
        "unet": partial(of_diffusers, UNet2DConditionModel),
        "vae": partial(of_diffusers, autoencoder),
        "text_encoder": text_encoder,
    }
    with quiet(), torch.device("meta"):
        unet, vae, text = (_built(folder / part, build) for part, build in builders.items())
    return unet, vae, text


def _built(folder: Path, build: Callable[[str], Any]) -> Any:
    try:
        return build(str(folder))
    except Exception as error:  # a config can be wrong in every way that either library's constructors notice
        raise ModelUnavailable(
            f"{folder / 'config.json'} describes no network ({first_line(error)}); fetch the model again"
        ) from error


def skeleton(folder: Path) -> Components:
    """The parts of the pipeline in `folder`, its networks without weights.  Raises ModelUnavailable."""
    from diffusers import DDIMScheduler
    from transformers import AutoTokenizer

    return Components(
        *networks(folder),
        tokenizer=load_part(folder / "tokenizer", AutoTokenizer.from_pretrained, info=False),
        scheduler=load_part(folder / "scheduler", DDIMScheduler.from_pretrained, info=False),
    )
