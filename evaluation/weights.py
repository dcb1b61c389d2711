# SPDX-License-Identifier: Apache-2.0
"""Where a metric's weights come from: a local folder, the hub's cache or the hub; read without executing anything."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from guidance.sources import ModelUnavailable, quiet, reason_of
from guidance.weight_files import load_part
from utils.model_ids import current_id

CONFIGS = ("*.json", "*.txt", "*.model")
PICKLES = ("*.bin", "*.pt")


class MetricUnavailable(RuntimeError):
    """A metric's weights are not available; the message says which, why and what to do."""


def repository(name: str, folder: Path | None, files: Sequence[str] = CONFIGS, weights: bool = True) -> Path:
    """Folder of a hub repository: folder/<last part of its name> where `folder` is given, else from the hub.

    Of the weights only one kind is fetched: safetensors, or pickles where there is none.
    """
    if folder is not None:
        found = folder / name.split("/")[-1]
        if not found.is_dir():
            raise MetricUnavailable(f"{found} does not exist; expected the files of the hub repository {name} there")
        return found
    fetched = _snapshot(name, [*files, "*.safetensors"] if weights else list(files))
    if weights and not any(fetched.glob("*.safetensors")):
        fetched = _snapshot(name, [*files, *PICKLES])
    return fetched


def _snapshot(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            return Path(snapshot_download(current_id(name), allow_patterns=patterns))
    except Exception as error:  # hub, http and file-system errors share no base class
        raise MetricUnavailable(
            f"{name} is not in the local cache and could not be downloaded ({reason_of(error)}); connect to the "
            "network once, or give a folder that holds it"
        ) from error


def from_pretrained(folder: Path, load: Callable[..., Any], weights: bool = True, **options: Any) -> Any:
    """A model in eval mode, or a tokenizer, by transformers' own loader; a weight that is missing is an error."""
    try:
        loaded = load_part(folder, load, info=weights, **options)
    except ModelUnavailable as error:
        raise MetricUnavailable(str(error)) from error
    return loaded.eval() if isinstance(loaded, nn.Module) else loaded


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's .safetensors files, or of its .bin and .pt files, which are read as weights only."""
    paths = sorted(folder.glob("*.safetensors")) or [path for kind in PICKLES for path in sorted(folder.glob(kind))]
    if not paths:
        raise MetricUnavailable(f"{folder} holds no weights; expected .safetensors, .bin or .pt files")
    state: dict[str, Tensor] = {}
    for path in paths:
        state.update(read_file(path))
    return state


def read_file(path: Path) -> dict[str, Any]:
    """What a .safetensors, .bin or .pt file holds; nothing in it is executed. Raises MetricUnavailable."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # safetensors, pickle, zip and torch raise their own classes
        raise MetricUnavailable(f"{path} cannot be read ({reason_of(error)}); fetch it again") from error


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies weights by name and shape; names that the module lacks are left, weights that it misses are an error."""
    own = module.state_dict()
    wrong = [name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape]
    if wrong:
        raise MetricUnavailable(f"{source} lacks {len(wrong)} weights of the metric, e.g. {wrong[0]}; fetch it again")
    module.load_state_dict({name: state[name] for name in own})
