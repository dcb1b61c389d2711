# SPDX-License-Identifier: Apache-2.0
"""What can be told of a run's model files before any weight is read or fetched: asked with the settings."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from arguments import Config, GuidanceParams
from guidance.controlnet import find_controlnet
from guidance.lora_file import read_lora
from guidance.model_checks import check_layout, read_json, refuse_other_names
from guidance.single_file import BASE_MODEL, read_header
from guidance.sources import HOW_TO_GET, ModelUnavailable, find_local, local_folder
from guidance.textual_inversion import check_widths, read_words
from guidance.weight_files import NETWORKS, variant_of


def model_file_checks(config: Config) -> Iterator[Callable[[], object]]:
    """Each raises ModelUnavailable for a file on this machine that cannot be used; hub ids are left for later."""
    params = config.guidance
    if params.guidance != "SD":
        return
    if params.LoRA_path:
        yield partial(_check_lora, params, params.LoRA_path)
    if params.textual_inversion_path:
        yield partial(_check_words, params, params.textual_inversion_path)
    if params.controlnet_model_key:
        yield partial(find_controlnet, params.controlnet_model_key)
    yield partial(_check_model, params)


def _check_lora(params: GuidanceParams, path: str) -> None:
    lora = read_lora(path)
    if lora.words and (width := _text_width(params)):
        check_widths(lora.words, width, lora.told)


def _check_words(params: GuidanceParams, path: str) -> None:
    words = read_words(path)
    if width := _text_width(params):
        check_widths(words, width, f"textual inversion {path}")


def _text_width(params: GuidanceParams) -> int | None:
    """How wide the vectors of the model's text encoder are, where its config is on this machine."""
    try:
        source = find_local(params)
        config = read_json(source / "text_encoder" / "config.json") if source is not None and source.is_dir() else {}
    except ModelUnavailable:  # `_check_model` reports it
        return None
    width = config.get("hidden_size")
    return width if isinstance(width, int) else None


def _check_model(params: GuidanceParams) -> None:
    if not params.model_key:
        raise ModelUnavailable(
            f"GuidanceParams.model_key is not set; {HOW_TO_GET}. For a first try without a model use "
            "--opt configs/quickstart.yaml"
        )
    source = find_local(params)
    if source is not None and source.is_dir():
        check_layout(source)
        for part in NETWORKS:
            variant_of(source / part)
    elif source is not None:
        _check_single_file(source, params.base_model_key)


def _check_single_file(path: Path, base_model_key: str | None) -> None:
    refuse_other_names(path, *read_header(path))
    if base_model_key and (base := local_folder(base_model_key)) is not None:
        check_layout(base, BASE_MODEL)
