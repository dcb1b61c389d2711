# SPDX-License-Identifier: Apache-2.0
"""One checkpoint file in the original Stable Diffusion layout, completed by a base model's configs and tokenizer."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arguments import GuidanceParams
from guidance.components import Components, check_fit
from guidance.model_checks import check_layout, refuse_other_names
from guidance.sources import ModelUnavailable, download_configs, hub_id, local_folder, quiet, reason_of
from guidance.tensor_files import load_pickled, problem_of, python_object_of
from guidance.weight_files import load_part
from utils.wording import counted

logger = logging.getLogger(__name__)

BASE_MODEL = "give GuidanceParams.base_model_key a local folder or hub id that holds them"
EXPECTED = "expected a whole Stable Diffusion 1.x or 2.x checkpoint"
PREDICTION_OF = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def load_single_file(path: Path, params: GuidanceParams, dtype: torch.dtype) -> Components:
    """The model of a file, completed by base_model_key (folder or hub id) and checked.  Raises ModelUnavailable."""
    from diffusers import StableDiffusionPipeline

    tensors, metadata = read_header(path)
    refuse_other_names(path, tensors, metadata)
    base = _base_folder(path, params, tensors)
    try:
        with quiet(), _missing_weights() as missing:
            options: dict[str, Any] = {"config": str(base), "dtype": dtype, "safety_checker": None}
            pipe = StableDiffusionPipeline.from_single_file(str(path), **options)
    except Exception as error:  # safetensors, pickle, hub and key errors share no base class
        raise ModelUnavailable(f"model file {path} cannot be loaded ({reason_of(error)}); {EXPECTED}") from error
    if missing:
        raise ModelUnavailable(
            f"model file {path} lacks {counted(len(missing), 'weight')}, e.g. {missing[0]}; fetch it again, "
            "or correct GuidanceParams.base_model_key if that is another kind of model"
        )
    scheduler = _scheduler(base, path, tensors, metadata)
    components = Components(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, scheduler)
    check_fit(components, str(path))
    return components


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


def _base_folder(path: Path, params: GuidanceParams, tensors: dict[str, Tensor]) -> Path:
    """The folder with the base model's configs and tokenizer: base_model_key, or what the file's shapes tell."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    key = params.base_model_key
    folder = local_folder(key) if key else None
    try:
        if folder is None:
            key = hub_id(key or fetch_diffusers_config(tensors)["pretrained_model_name_or_path"], params)
            folder = download_configs(key, "GuidanceParams.base_model_key")
        check_layout(folder, BASE_MODEL)
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"model file {path} needs the configs and tokenizer of its base model, but {error}"
        ) from error
    return folder


def _scheduler(base: Path, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Any:
    """The base model's scheduler, with the prediction type that the file itself tells."""
    from diffusers import DDIMScheduler

    scheduler = load_part(base / "scheduler", DDIMScheduler.from_pretrained, info=False)
    told, others = _prediction_of(path, tensors, metadata), scheduler.config.prediction_type
    changes: dict[str, Any] = {}
    if told and told != others:
        logger.warning("%s says that it predicts %s, its base model %s: the file is followed", path, told, others)
        changes["prediction_type"] = told
    if "ztsnr" in tensors and not scheduler.config.rescale_betas_zero_snr:
        logger.warning("%s says that it was trained with zero terminal SNR: the schedule is rescaled", path)
        changes["rescale_betas_zero_snr"] = True
    return DDIMScheduler.from_config(scheduler.config, **changes) if changes else scheduler


def _prediction_of(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str | None:
    """What a file says it predicts: in its metadata, or by a tensor named v_pred; None when it says nothing."""
    told = metadata.get("modelspec.prediction_type", "").strip().lower().replace("-", "_")
    if told:
        if told not in PREDICTION_OF:
            raise ModelUnavailable(
                f"model file {path} has modelspec.prediction_type {told[:60]!r}; expected epsilon or v, {EXPECTED}"
            )
        return PREDICTION_OF[told]
    is_v = "v_pred" in tensors or metadata.get("modelspec.architecture", "").endswith("-768-v")
    return "v_prediction" if is_v else None


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
