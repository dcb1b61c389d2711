# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's model files that need no weights, made with the settings; fetching them before others run."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from arguments import Config, GuidanceParams
from guidance.components import Components, load_shapes
from guidance.controlnet import check_controlnet, download_controlnet, find_controlnet
from guidance.feature_cache import check_unet
from guidance.lora import layers_of
from guidance.lora_file import read_lora
from guidance.model_checks import check_configs, check_layout, read_json, refuse_other_names
from guidance.sources import HOW_TO_GET, ModelUnavailable, NotDownloaded, find_source
from guidance.textual_inversion import check_widths, read_words
from guidance.tiny_vae import check_tiny_vae_shape, find_tiny_vae, tiny_vae_shape
from guidance.weight_files import NETWORKS, variant_of
from guidance.weights import base_folder, check_file, download_model, read_header
from utils.hub_cache import in_cache


def model_file_checks(config: Config) -> Iterator[Callable[[], object]]:
    """Each raises ModelUnavailable for files that cannot be used; in the hub client's offline mode for missing ones."""
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
    source = _on_this_machine("ControlNet", find_controlnet(key), download_controlnet)
    if source is not None and (parts := model()) is not None:
        check_controlnet(read_json(source / "config.json"), parts.unet.config, str(source))


def _on_this_machine(kind: str, source: Path | str, download: Callable[..., Path]) -> Path | None:
    """A folder or file as it is; the cached folder of a hub id, None where the start downloads it."""
    if isinstance(source, Path):
        return source
    find = partial(download, source)
    return in_cache(f"{kind} {source!r}", lambda alone: find(cache_only=alone), NotDownloaded)


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
        source = find_source(params)
        if isinstance(source, str):
            folder = download_model(source, params.model_revision, cache_only=True)
        elif source.is_file():
            folder = base_folder(source, params, read_header(source)[0], cache_only=True)
        else:
            folder = source
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
    download = partial(download_model, revision=params.model_revision)
    source = _on_this_machine("hub model", find_source(params), download)
    if source is not None and source.is_dir():
        check_layout(source)
        for part in NETWORKS:
            variant_of(source / part)
        check_configs(load_shapes(source), str(source))
    elif source is not None:
        _check_single_file(source, params)


def _check_single_file(path: Path, params: GuidanceParams) -> None:
    tensors, metadata = read_header(path)
    refuse_other_names(path, tensors, metadata)
    find = partial(base_folder, path, params, tensors)
    base = in_cache(f"the base model of {path}", find, NotDownloaded)
    if base is not None:
        check_file(path, tensors, base)


def fetch_models(params: GuidanceParams) -> None:
    """Downloads what the run's hub ids name and the cache lacks; loads nothing.  Raises ModelUnavailable."""
    if params.guidance != "SD":
        return
    source = find_source(params)
    if isinstance(source, str):
        download_model(source, params.model_revision)
    elif source.is_file():
        base_folder(source, params, read_header(source)[0])
    if params.controlnet_model_key and isinstance(control := find_controlnet(params.controlnet_model_key), str):
        download_controlnet(control)
