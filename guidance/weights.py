# SPDX-License-Identifier: Apache-2.0
"""The parts of a Stable Diffusion model, read from what sources.py finds, and one clear sentence when they cannot be.

Pickled files are read with torch's weights-only loader; nothing in a checkpoint is executed.
"""

from pathlib import Path
from typing import Any

import torch
import transformers

from arguments import GuidanceParams
from guidance.components import Components, check_fit
from guidance.model_checks import check_layout, read_json, read_words
from guidance.single_file import load_single_file
from guidance.sources import HOW_TO_GET, ModelUnavailable, download, find_source
from guidance.weight_files import NETWORKS, lacks_weights, load_part


def load_components(params: GuidanceParams, dtype: torch.dtype) -> Components:
    """Load what `params.model_key` names, checked for shape.  Raises ModelUnavailable."""
    # transformers tells at import that torchvision is missing, which nothing here needs.
    transformers.logging.set_verbosity_error()
    source = find_source(params)
    if isinstance(source, Path) and source.is_file():
        return load_single_file(source, params, dtype)
    folder = source if isinstance(source, Path) else _downloaded(source, params.model_revision)
    check_layout(folder)
    components = _from_folder(folder, dtype)
    check_fit(components, str(source))
    return components


def _downloaded(key: str, revision: str | None) -> Path:
    """A hub model's folder; where a part comes without plain weights, with its half-precision ones."""
    folder = download(key, revision)
    parts = [folder / part for part in NETWORKS if (folder / part).is_dir()]
    return download(key, revision, variant="fp16") if any(map(lacks_weights, parts)) else folder


def _from_folder(folder: Path, dtype: torch.dtype) -> Components:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    words = folder / "tokenizer" / "words.txt"
    fast: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": _has_accelerate()}
    return Components(
        unet=load_part(folder / "unet", UNet2DConditionModel.from_pretrained, **fast),
        vae=load_part(folder / "vae", vae_class(folder).from_pretrained, **fast),
        text_encoder=load_part(folder / "text_encoder", CLIPTextModel.from_pretrained, dtype=dtype),
        tokenizer=load_part(folder / "tokenizer", AutoTokenizer.from_pretrained, info=False),
        known_words=read_words(words) if words.is_file() else None,
        scheduler=load_part(folder / "scheduler", DDIMScheduler.from_pretrained, info=False),
    )


def _has_accelerate() -> bool:
    from diffusers.utils import is_accelerate_available

    return is_accelerate_available()


def vae_class(folder: Path) -> Any:
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
