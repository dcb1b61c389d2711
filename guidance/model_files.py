# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's model files that need no weights, made with the settings: nothing is fetched."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from arguments import Config, GuidanceParams
from guidance.components import Components, load_shapes
from guidance.controlnet import check_controlnet, find_controlnet
from guidance.feature_cache import check_unet
from guidance.lora import layers_of
from guidance.lora_file import read_lora
from guidance.model_checks import check_configs, check_layout, read_json, refuse_other_names
from guidance.sources import HOW_TO_GET, ModelUnavailable, find_local, local_folder
from guidance.textual_inversion import check_widths, read_words
from guidance.tiny_vae import check_tiny_vae_shape, find_tiny_vae, tiny_vae_shape
from guidance.weight_files import NETWORKS, variant_of
from guidance.weights import BASE_MODEL, check_file, read_header


def model_file_checks(config: Config) -> Iterator[Callable[[], object]]:
    """Each raises ModelUnavailable for a file on this machine that cannot be used; hub ids are left for later."""
    params = config.guidance
    if params.guidance != "SD":
        return
    model = cache(partial(model_on_this_machine, params))
    if params.LoRA_path:
        yield partial(_check_lora, params.LoRA_path, model)
    if params.textual_inversion_path:
        yield partial(_check_words, params.textual_inversion_path, model)
    if params.controlnet_model_key:
        yield partial(_check_controlnet, params.controlnet_model_key, model)
    if params.unet_cache_interval > 1:
        yield partial(_check_caching, model)
    if params.tiny_vae:
        yield partial(_check_tiny_vae, params.tiny_vae, model)
    yield partial(_check_model, params)


def _check_words(path: str, model: Callable[[], Components | None]) -> None:
    words = read_words(path)
    if (parts := model()) is not None:
        check_widths(words, parts.text_encoder.config.hidden_size, f"textual inversion {path}")


def _check_lora(path: str, model: Callable[[], Components | None]) -> None:
    lora = read_lora(path)
    if (parts := model()) is not None:
        check_widths(lora.words, parts.text_encoder.config.hidden_size, lora.name)
        layers_of(parts, lora)


def _check_controlnet(key: str, model: Callable[[], Components | None]) -> None:
    source = find_controlnet(key)
    if isinstance(source, Path) and (parts := model()) is not None:
        check_controlnet(read_json(source / "config.json"), parts.unet.config, str(source))


def _check_caching(model: Callable[[], Components | None]) -> None:
    if (parts := model()) is not None:
        check_unet(parts.unet)


def _check_tiny_vae(key: str, model: Callable[[], Components | None]) -> None:
    folder = find_tiny_vae(key)
    shape = tiny_vae_shape(folder)
    variant_of(folder)
    if (parts := model()) is not None:
        check_tiny_vae_shape(shape, parts.vae, str(folder))


def model_on_this_machine(params: GuidanceParams) -> Components | None:
    """The model without its weights, if its configs are on this machine; `_check_model` reports their faults."""
    try:
        source = find_local(params)
        is_file = source is not None and source.is_file()
        folder = local_folder(params.base_model_key) if is_file else source
        if folder is None:
            return None
        check_layout(folder)  # odd values are no shapes
        return load_shapes(folder)
    except ModelUnavailable:
        return None


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
        check_configs(load_shapes(source), str(source))
    elif source is not None:
        _check_single_file(source, params.base_model_key)


def _check_single_file(path: Path, base_model_key: str | None) -> None:
    tensors, metadata = read_header(path)
    refuse_other_names(path, tensors, metadata)
    if (base := local_folder(base_model_key)) is not None:
        check_layout(base, BASE_MODEL)
        check_file(path, tensors, base)
