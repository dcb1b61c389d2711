# SPDX-License-Identifier: Apache-2.0
"""Files of LoRA: low-rank changes of a model's layers, by layer, with the words that were learned beside them.

Files that are understood: diffusers, peft, ComfyUI and OneTrainer (names with dots), kohya and LyCORIS (names with
underscores), and cloneofsimo's .safetensors (numbered layers, learned words, or learned words alone).

| letter | meaning |
|---|---|
| r | rank of a change |
| up [out,r] or [out,r,1,1] | second factor (peft: lora_B) |
| down [r,in] or [r,in,kh,kw] | first factor (peft: lora_A) |
"""

import json
import math
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from guidance.sources import ModelUnavailable
from guidance.tensor_files import check_values, read_file
from guidance.textual_inversion import checked_vectors
from utils.model_ids import expanded

FOLDER_FILE = "pytorch_lora_weights.safetensors"
WHICH_FILE = "give GuidanceParams.LoRA_path a LoRA of Stable Diffusion 1.x or 2.x in diffusers, peft or kohya format"
MODEL_OF_CONTEXT = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
FACTOR = re.compile(
    r"(?P<key>(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?[._]|:)(?P<side>A|B|up|down))(?:(?:\.\w+)?\.weight)?"
)
ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?)?[.:]alpha")
BUNDLED_WORD = re.compile(r"bundle_emb\.(?P<word>.+?)\.(?:string_to_param\.)?(?:\*|emb_params)")
EMBEDDING_MARK = "<embed>"
OF_PEFT = "lora_adapter_metadata"
# What else a file is whose names begin so.
OTHER_FILES = {
    r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.|(lora_)?transformer[._]"
    r"|.*[._]transformer_blocks[._][1-9]\d*[._]attn|.*[._](joint|double|single)(_transformer)?_blocks[._]"
    r"|(model\.)?diffusion_model\.(blocks|layers|transformer_blocks)\.": "of Stable Diffusion XL, FLUX or others",
    r"base_model\.model\.": "a bare peft adapter without its alpha, which the pipeline's save_lora_weights would save",
    r"(model\.diffusion_model|first_stage_model|cond_stage_model)\.(?!.*(lora|alpha))": "a checkpoint, for model_key",
    r"<|emb_params$": "a textual inversion, for textual_inversion_path",
}


@dataclass(frozen=True)
class Factors:
    """One layer's change: up @ down times alpha / r, or times 1 (None); key: the file's name of down, of no adapter."""

    key: str
    up: Tensor
    down: Tensor
    alpha: float | None = None


@dataclass
class LoRA:
    """A LoRA file as read, its layers not yet looked up in a model.

    metadata: the file's; of_peft: what it has of peft's settings, such as `unet.lora_alpha`; layers: layer as the file
    calls it -> its factors; words: learned words with their vectors [V,D].
    """

    path: Path
    metadata: dict[str, str] = field(default_factory=dict)
    of_peft: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Factors] = field(default_factory=dict)
    words: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"LoRA {self.path}"

    def error(self, problem: str, remedy: str = WHICH_FILE) -> ModelUnavailable:
        """What to raise for a file that has this problem."""
        return ModelUnavailable(f"{self.name} {problem}; {remedy}")

    def described(self, key: str, default: Any) -> Any:
        """The JSON value of `key` in the metadata, of the default's type."""
        try:
            value = json.loads(self.metadata[key]) if key in self.metadata else default
        except (ValueError, RecursionError) as error:
            raise self.error(f"has metadata {key!r} that is no JSON") from error
        if not isinstance(value, type(default)):
            raise self.error(f"has metadata {key!r} of another form")
        return value

    def misfit(self, problem: str) -> ModelUnavailable:
        """What to raise for a change that does not fit: with the model of the text that cross-attention reads."""
        widths = {len(f.down[0]) for f in self.layers.values() if re.search(r"attn2\W.*to_[kv]|attn2_to_[kv]", f.key)}
        known = [kind for width, kind in MODEL_OF_CONTEXT.items() if width in widths]
        named = self.metadata.get("modelspec.architecture") or self.metadata.get("ss_base_model_version")
        other = f"another model ({named[:60]})" if named else "another model"
        return self.error(f"changes {problem}", f"it was made for {known[0] if known else other}, {WHICH_FILE}")


def read_lora(lora_path: str) -> LoRA:
    """Read a LoRA file, or a folder with pytorch_lora_weights.safetensors.  Raises ModelUnavailable, one sentence."""
    path = expanded(lora_path)
    if path.is_dir():
        path = path / FOLDER_FILE
    if not path.is_file():
        raise ModelUnavailable(f"LoRA_path {str(path)!r} does not exist; {WHICH_FILE}")
    lora = LoRA(path)
    contents, lora.metadata = read_file(path, lora.name, WHICH_FILE)
    contents = contents.get("state_dict", contents) if isinstance(contents, dict) else contents
    if not isinstance(contents, dict) or not all(hasattr(value, "ndim") for value in contents.values()):
        kind = "a bare list, as cloneofsimo's .pt files are" if isinstance(contents, list) else type(contents).__name__
        raise lora.error(f"holds {kind}; expected tensors by name")
    collected: dict[str, dict[str, Any]] = {}
    for key, value in contents.items():
        _read_tensor(lora, str(key), value, collected)
    lora.layers = {layer: _factors(lora, layer, **values) for layer, values in collected.items()}
    if not lora.layers and not lora.words:
        raise lora.error("holds no weights")
    lora.of_peft = lora.described(OF_PEFT, {})
    if lora.layers and find_spec("peft") is None:
        raise ModelUnavailable("LoRA_path needs the package peft, which merges LoRAs: pip install peft accelerate")
    return lora


def _read_tensor(lora: LoRA, key: str, value: Tensor, collected: dict[str, dict[str, Any]]) -> None:
    """Put a factor or an alpha with its layer's, a word with the words.  Raises ModelUnavailable for anything else."""
    if (bundled := BUNDLED_WORD.fullmatch(key)) or lora.metadata.get(key) == EMBEDDING_MARK:
        word = bundled["word"] if bundled else key
        lora.words[word] = checked_vectors(value, word, lora.name)
        return
    if other := next((kind for pattern, kind in OTHER_FILES.items() if re.match(pattern, key)), None):
        raise lora.error(f"is {other} ({key})")
    found = FACTOR.fullmatch(key) or ALPHA.fullmatch(key)
    if found is None:
        raise lora.error(f"holds {key!r}, which is no LoRA weight: DoRA, LoHa, LoKr and others cannot be merged")
    values = collected.setdefault(found["layer"], {})
    if found.re is FACTOR:
        side = "up" if found["side"] in ("up", "B") else "down"
        values[side] = check_values(value, key, lora.name)
        if side == "down":
            values["key"] = f"{found['key']}.weight"
    elif value.numel() == 1 and math.isfinite(float(value)):
        values["alpha"] = float(value)
    else:
        raise lora.error(f"has {list(value.shape)} as {key}, expected one number")


def _factors(lora: LoRA, layer: str, up: Tensor | None = None, down: Tensor | None = None, **others: Any) -> Factors:
    """Both factors of a layer, once their shapes agree."""
    if up is None or down is None:
        missing = "up" if up is None else "down"
        raise lora.error(f"has no {missing} weight for {layer}", "the file is incomplete, fetch it again")
    if min(up.ndim, down.ndim) < 2 or not up.shape[1] == down.shape[0] > 0:
        shapes = f"up {list(up.shape)} and down {list(down.shape)}"
        raise lora.error(f"cannot be merged: {layer} has {shapes}, whose ranks differ or are 0", "fetch it again")
    return Factors(up=up, down=down, **others)
