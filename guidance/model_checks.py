# SPDX-License-Identifier: Apache-2.0
"""Whether files are those of a plain text-to-image model; where they are not, one sentence says what they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from guidance.sources import HOW_TO_GET, ModelUnavailable, first_line
from utils.bounded_file import read_text

MAX_CONFIG_BYTES = 1 << 24  # of a JSON file or a list of words beside the weights
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Names of weights that tell a file of something else: what it is and where it belongs.
OTHER_FILES = {
    r"conditioner\.": "a Stable Diffusion XL checkpoint; only 1.x and 2.x work here",
    r"(model\.diffusion_model\.)?(double|joint)_blocks\.": "a FLUX or Stable Diffusion 3 checkpoint, no 1.x or 2.x one",
    r"control_model\.|controlnet_|input_hint_block\.": "a ControlNet; controlnet_model_key takes one as a folder",
    r".*(\.lora_|_lora\.|\.lora\.|:up$)": "a LoRA; name it in LoRA_path",
}


def read_json(path: Path) -> dict[str, Any]:
    """A config of a model.  Raises ModelUnavailable when it is damaged."""
    contents = _read(path, json.loads, "readable JSON")
    if not isinstance(contents, dict):
        raise ModelUnavailable(f"{path} is not a JSON object; the model is damaged, fetch it again")
    return contents


def read_words(path: Path) -> frozenset[str]:
    """The words of a list, white space between them.  Raises ModelUnavailable when it is damaged."""
    return frozenset(_read(path, str.split, "a list of words"))


def _read(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        return parse(read_text(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(
            f"{path} is not {kind} ({first_line(error)}); the model is damaged, fetch it again"
        ) from error


def check_layout(folder: Path) -> None:
    """Raise ModelUnavailable unless `folder` looks like a Stable Diffusion pipeline in diffusers layout."""
    index = folder / "model_index.json"
    if not index.is_file():
        config = folder / "config.json"
        kind = read_json(config).get("_class_name", "") if config.is_file() else ""
        found = f"a single {kind}" if kind else "no model_index.json"
        raise ModelUnavailable(f"folder {folder} holds {found}; expected a Stable Diffusion pipeline; {HOW_TO_GET}")
    contents = read_json(index)
    kind = contents.get("_class_name", "unknown")
    if "text_encoder_2" in contents or "XL" in kind or "transformer" in contents:
        raise ModelUnavailable(
            f"folder {folder} is a {kind}; only Stable Diffusion 1.x and 2.x work here; {HOW_TO_GET}"
        )
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelUnavailable(
            f"folder {folder} lacks {', '.join(missing)}; fetch the whole pipeline again; {HOW_TO_GET}"
        )


def check_complete(source: str, report: dict[str, Any]) -> None:
    """Raise ModelUnavailable if a library's loading report tells of weights that were not in the files."""
    missing, mismatched = sorted(report["missing_keys"]), report["mismatched_keys"]
    if missing or mismatched:
        example = missing[0] if missing else sorted(str(key) for key in mismatched)[0]
        count = len(missing) + len(mismatched)
        raise ModelUnavailable(
            f"{source} lacks {count} weights that its config.json asks for, e.g. {example}; fetch the model again"
        )


def refuse_other_files(path: Path) -> None:
    """Raise ModelUnavailable if the names in a file tell that it is another kind; unreadable files are left alone."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
        else:
            contents = torch.load(path, map_location="meta", weights_only=True, mmap=True)
            names = list(contents.get("state_dict", contents))
    except Exception:  # whoever loads it in earnest says what is wrong
        return
    for pattern, kind in OTHER_FILES.items():
        if any(re.match(pattern, name) for name in names):
            raise ModelUnavailable(f"model file {path} is {kind}; {HOW_TO_GET}")
