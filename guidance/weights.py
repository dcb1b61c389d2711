# SPDX-License-Identifier: Apache-2.0
"""Loading the model that `model_key` names: a folder, a hub model, or one file in the original Stable Diffusion layout.

A single file is completed by a base model's configs and tokenizer.  Pickled files are read with torch's weights-only
loader; nothing in a checkpoint is executed.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments import GuidanceParams
from guidance.components import Components, load_folder, load_scheduler, networks
from guidance.model_checks import check_fit, check_layout, refuse_other_names
from guidance.sources import (
    ModelUnavailable,
    NotDownloaded,
    cached,
    download,
    download_configs,
    find_source,
    hub_id,
    local_folder,
    quiet,
    reason_of,
)
from guidance.tensor_files import load_pickled, problem_of, python_object_of
from guidance.weight_files import NETWORKS, lacks_weights
from utils.wording import counted

logger = logging.getLogger(__name__)

BASE_MODEL = "give GuidanceParams.base_model_key a local folder or hub id that holds them"
EXPECTED = "expected a whole Stable Diffusion 1.x or 2.x checkpoint"
PREDICTION_OF = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def load_components(params: GuidanceParams, dtype: torch.dtype) -> Components:
    """Load what `params.model_key` names, checked for shape.  Raises ModelUnavailable."""
    import transformers  # here: the ideal prior needs none of it

    # At import transformers reports that torchvision is missing, which nothing here needs.
    transformers.logging.set_verbosity_error()
    source = find_source(params)
    if isinstance(source, Path) and source.is_file():
        components = _load_file(source, params, dtype)
    else:
        folder = source if isinstance(source, Path) else download_model(source, params.model_revision)
        check_layout(folder)
        components = load_folder(folder, dtype)
    check_fit(components, str(source))
    return components


def download_model(key: str, revision: str | None, cache_only: bool = False) -> Path:
    """A hub model's folder; where a part comes without plain weights, with its half-precision ones.

    cache_only: nothing is downloaded.  Raises NotDownloaded.
    """
    folder = cached(key, revision, *NETWORKS) if cache_only else download(key, revision)
    parts = [folder / part for part in NETWORKS if (folder / part).is_dir()]
    is_whole = not any(map(lacks_weights, parts))
    if not cache_only:
        return folder if is_whole else download(key, revision, variant="fp16")
    if not is_whole or len(parts) < len(NETWORKS):
        raise NotDownloaded(f"hub model {key!r} is only in part in the local cache; connect to the network once")
    return folder


def _load_file(path: Path, params: GuidanceParams, dtype: torch.dtype) -> Components:
    """The model of a single file, completed by base_model_key or by the model that the file's shapes imply."""
    from diffusers import StableDiffusionPipeline

    tensors, metadata = read_header(path)
    refuse_other_names(path, tensors, metadata)
    base = base_folder(path, params, tensors)
    check_file(path, tensors, base)
    try:
        with quiet():
            options: dict[str, Any] = {"config": str(base), "dtype": dtype, "safety_checker": None}
            pipe = StableDiffusionPipeline.from_single_file(str(path), **options)
    except Exception as error:  # safetensors, pickle, hub and key errors share no base class
        raise ModelUnavailable(f"model file {path} cannot be loaded ({reason_of(error)}); {EXPECTED}") from error
    scheduler = _scheduler(base, path, tensors, metadata)
    return Components(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, scheduler)


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A checkpoint's tensors on the meta device, by name, and its metadata.  Raises ModelUnavailable."""
    from safetensors import safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, metadata
        contents = load_pickled(path, map_location="meta")
        contents = contents.get("state_dict", contents)
        return {name: value for name, value in contents.items() if torch.is_tensor(value)}, {}
    except Exception as error:  # safetensors, pickle and torch raise their own classes
        problem = problem_of(error) if python_object_of(error) else f"cannot be loaded ({reason_of(error)}); {EXPECTED}"
        raise ModelUnavailable(f"model file {path} {problem}") from error


def check_file(path: Path, tensors: dict[str, Tensor], base: Path) -> None:
    """Raise ModelUnavailable unless a file with these tensors has every weight of the networks that `base` describes.

    diffusers would leave the others random and report nothing.
    """
    from diffusers.loaders import single_file_utils as layouts

    unet, vae, text_encoder = networks(base)
    try:
        of_text = (
            layouts.convert_open_clip_checkpoint(text_encoder, tensors)
            if layouts.is_open_clip_model(tensors)
            else layouts.convert_ldm_clip_checkpoint(tensors)
        )
        converted = {
            unet: layouts.convert_ldm_unet_checkpoint(tensors, unet.config),
            vae: layouts.convert_ldm_vae_checkpoint(tensors, vae.config),
            text_encoder: of_text,
        }
    except Exception as error:  # key and shape errors of many kinds
        raise ModelUnavailable(f"model file {path} cannot be loaded ({reason_of(error)}); {EXPECTED}") from error
    for network, found in converted.items():
        names = {name.removeprefix("text_model.") for name in found}
        missing = sorted({name.removeprefix("text_model.") for name in network.state_dict()} - names)
        if not names:
            part = type(network).__name__
            raise ModelUnavailable(f"model file {path} cannot be loaded (it has no weights of {part}); {EXPECTED}")
        if missing:
            raise ModelUnavailable(
                f"model file {path} lacks {counted(len(missing), 'weight')}, e.g. {missing[0]}; fetch it again, "
                "or correct GuidanceParams.base_model_key if that is another kind of model"
            )


def base_folder(path: Path, params: GuidanceParams, tensors: dict[str, Tensor], cache_only: bool = False) -> Path:
    """The folder with the base model's configs and tokenizer: base_model_key, or what the file's shapes imply.

    cache_only: nothing is downloaded.  Raises NotDownloaded, and ModelUnavailable for a folder of something else.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    key = params.base_model_key
    folder = local_folder(key)
    try:
        if folder is None:
            key = hub_id(key or fetch_diffusers_config(tensors)["pretrained_model_name_or_path"], params)
            folder = download_configs(key, "GuidanceParams.base_model_key", cache_only)
        check_layout(folder, BASE_MODEL)
    except ModelUnavailable as error:
        raise type(error)(
            f"model file {path} needs the configs and tokenizer of its base model, but {error}"
        ) from error
    return folder


def _scheduler(base: Path, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Any:
    """The base model's scheduler, with the prediction type that the file itself states."""
    scheduler = load_scheduler(base)
    stated, others = _prediction_of(path, tensors, metadata), scheduler.config.prediction_type
    changes: dict[str, Any] = {}
    if stated and stated != others:
        logger.warning("%s says that it predicts %s, its base model %s: the file is followed", path, stated, others)
        changes["prediction_type"] = stated
    if "ztsnr" in tensors and not scheduler.config.rescale_betas_zero_snr:
        logger.warning("%s says that it was trained with zero terminal SNR: the schedule is rescaled", path)
        changes["rescale_betas_zero_snr"] = True
    return type(scheduler).from_config(scheduler.config, **changes) if changes else scheduler


def _prediction_of(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str | None:
    """What a file predicts, by its metadata or a tensor named v_pred; None when it does not say."""
    stated = metadata.get("modelspec.prediction_type", "").strip().lower().replace("-", "_")
    if stated:
        if stated not in PREDICTION_OF:
            raise ModelUnavailable(
                f"model file {path} has modelspec.prediction_type {stated[:60]!r}; expected epsilon or v, {EXPECTED}"
            )
        return PREDICTION_OF[stated]
    is_v = "v_pred" in tensors or metadata.get("modelspec.architecture", "").endswith("-768-v")
    return "v_prediction" if is_v else None
