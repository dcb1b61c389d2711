# SPDX-License-Identifier: Apache-2.0
"""The parts of a Stable Diffusion model, read from what sources.py finds, and one clear sentence when they cannot be.

Pickled files are read with torch's weights-only loader; nothing in a checkpoint is executed.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from arguments import GuidanceParams
from guidance.model_checks import PARTS, check_complete, check_layout, read_json, read_words, refuse_other_files
from guidance.sd_step import PREDICTION_TYPES
from guidance.sources import (
    HOW_TO_GET,
    REPOSITORY,
    ModelUnavailable,
    download,
    find_source,
    first_line,
    quiet,
    reason_of,
)


@dataclass
class Components:
    """The parts of a text-to-image pipeline that distillation uses; typed Any, for their libraries give no types.

    `known_words`: all words that a model of a small world was trained on (tokenizer/words.txt, one a line), else None.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    known_words: frozenset[str] | None = None


def load_components(
    params: GuidanceParams, dtype: torch.dtype, before_loading: Callable[[Path], None] | None = None
) -> Components:
    """Load what `params.model_key` names, checked for shape.  Raises ModelUnavailable.

    before_loading is shown the folder with the model's configs before any weight is read; for a single file it is that
    of base_model_key, and without one on this machine nothing is shown.
    """
    # transformers tells at import that torchvision is missing, which nothing here needs.
    transformers.logging.set_verbosity_error()
    source = find_source(params)
    if isinstance(source, Path) and source.is_file():
        base = _local_base(params.base_model_key)
        if before_loading is not None and base is not None and (Path(base) / "unet").is_dir():
            before_loading(Path(base))
        components = _from_single_file(source, params.base_model_key, dtype)
    else:
        folder = source if isinstance(source, Path) else download(source, params.model_revision)
        check_layout(folder)
        if before_loading is not None:
            before_loading(folder)
        components = _from_folder(folder, dtype)
    check_fit(components, str(source))
    if path := params.textual_inversion_path:
        if not Path(path).exists():
            raise ModelUnavailable(
                f"textual_inversion_path {path!r} does not exist; give the embedding's .safetensors or .bin file"
            )
        add_words(components, path, f"textual inversion {path!r}")
    return components


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


def load_part(path: Path, load: Callable[..., Any], info: bool = True, **options: Any) -> Any:
    """Load one folder of a pipeline; a weight that is missing is an error, not a random number."""
    try:
        with quiet():
            if not info:
                return load(str(path), local_files_only=True, **options)
            model, report = load(str(path), local_files_only=True, output_loading_info=True, **options)
    except ModelUnavailable:
        raise
    except Exception as error:  # safetensors, json, torch and both libraries raise their own classes
        raise ModelUnavailable(
            f"{path} cannot be loaded ({first_line(error)}); the files are damaged or incomplete, fetch them again"
        ) from error
    check_complete(str(path), report)
    return model


def _from_single_file(path: Path, base_model_key: str | None, dtype: torch.dtype) -> Components:
    """A single checkpoint; `base_model_key` (folder or hub id) completes it with configs and tokenizer."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    base = _local_base(base_model_key)
    if path.suffix == ".safetensors":
        refuse_other_files(path)
    try:
        with quiet(), _missing_weights() as missing:
            pipe = StableDiffusionPipeline.from_single_file(str(path), config=base, dtype=dtype, safety_checker=None)
    except Exception as error:  # safetensors, pickle, hub and key errors share no base class
        refuse_other_files(path)
        reason = reason_of(error)
        raise ModelUnavailable(
            f"model file {path} cannot be loaded ({reason}); expected a whole Stable Diffusion 1.x or 2.x checkpoint; "
            "without network, GuidanceParams.base_model_key must name a local folder with its configs and tokenizer"
        ) from error
    if missing:
        raise ModelUnavailable(
            f"model file {path} lacks {len(missing)} weights, e.g. {missing[0]}; fetch it again, "
            "or correct GuidanceParams.base_model_key if that is another kind of model"
        )
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return Components(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, scheduler)


@contextlib.contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """Collect the weights that modules do not find in what they load.

    The single-file loader leaves them random and says nothing, so its calls of load_state_dict are watched.
    """
    missing: list[str] = []
    original = nn.Module.load_state_dict

    def watched(module: nn.Module, *args: Any, **options: Any) -> Any:
        result = original(module, *args, **options)
        missing.extend(key for key in result.missing_keys if not key.endswith("position_ids"))
        return result

    nn.Module.load_state_dict = watched  # type: ignore[method-assign, assignment]
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _local_base(base_model_key: str | None) -> str | None:
    """base_model_key, read from the repository's folder where it is relative to that."""
    if not base_model_key:
        return None
    for path in (Path(base_model_key).expanduser(), REPOSITORY / base_model_key):
        if path.is_dir():
            return str(path)
    return base_model_key


def check_fit(components: Components, source: str) -> None:
    """Raise ModelUnavailable unless the parts belong together and form a plain text-to-image model."""
    unet, vae = components.unet.config, components.vae.config
    if unet.in_channels != vae.latent_channels:
        raise ModelUnavailable(
            f"{source}: the U-Net takes {unet.in_channels} channels but the autoencoder makes {vae.latent_channels}; "
            "inpainting, upscaling and depth models are no priors for this, use a plain text-to-image model"
        )
    width = components.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        raise ModelUnavailable(
            f"{source}: the text encoder is {width} wide but the U-Net expects {unet.cross_attention_dim}; "
            "the parts belong to different models, take all from one"
        )
    kind = components.scheduler.config.prediction_type
    if kind not in PREDICTION_TYPES:
        raise ModelUnavailable(
            f"{source}: scheduler prediction_type is {kind!r}; expected one of {', '.join(PREDICTION_TYPES)}, "
            "use such a model"
        )


def add_words(components: Components, source: str | dict[str, torch.Tensor], told: str) -> None:
    """Add the learned words of a textual-inversion file, or one word with its embedding, to tokenizer and text encoder.

    `told` names the source in the message of ModelUnavailable.
    """
    from diffusers import StableDiffusionPipeline

    parts = {part: getattr(components, part) for part in PARTS}
    pipe: Any = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    try:
        pipe.load_textual_inversion(source)
    except Exception as error:  # wrong keys, wrong width, unreadable file: each its own class
        raise ModelUnavailable(
            f"{told} does not fit ({first_line(error)}); use one made for this text encoder"
        ) from error
