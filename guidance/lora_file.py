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
from pathlib import Path
from typing import Any

from torch import Tensor

from guidance.sources import ModelUnavailable
from guidance.tensor_files import check_values, read_file
from guidance.textual_inversion import MODEL_OF_WIDTH, checked_vectors

FOLDER_FILE = "pytorch_lora_weights.safetensors"
WHICH_FILE = "give GuidanceParams.LoRA_path a LoRA of Stable Diffusion 1.x or 2.x in diffusers, peft or kohya format"
# What names show of the model that a LoRA belongs to, where that is not Stable Diffusion 1.x or 2.x.
FAMILIES = {
    r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.": "Stable Diffusion XL",
    r".*(_|\.)transformer_blocks(_|\.)[1-9]\d*(_|\.)attn\d(_|\.)to_": "Stable Diffusion XL",
    r".*(_|\.)joint_(transformer_)?blocks(_|\.)": "Stable Diffusion 3",
    r".*(_|\.)(double|single|single_transformer)_blocks(_|\.)": "a transformer such as FLUX",
    r"(lora_)?transformer(_|\.)": "a transformer such as FLUX",
    r"(model\.)?diffusion_model\.(blocks|layers|transformer_blocks)\.": "a transformer such as Wan or Qwen-Image",
}
# What other methods leave in a name: their change is no product of two matrices.
OTHER_METHODS = {
    r"dora_scale": "DoRA",
    r"lora_magnitude_vector": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.lora_mid": "a LoCon with a Tucker core",
    r"\.oft_": "OFT",
    r"\.boft_": "BOFT",
    r"\.glora_": "GLoRA",
    r"\.on_input": "IA3",
    r"\.diff(_b)?$": "a full difference of weights",
    r"\.w_norm": "a change of normalisation layers",
    r"\.b_norm": "a change of normalisation layers",
    r"\.lora_bias": "a LoRA with biases",
    r"\.lora_B\.bias": "a LoRA with biases",
}
FACTOR = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<ab>[AB])(?:\.\w+)?|[._]lora(?:_linear_layer)?[._](?P<side>up|down))\.weight"
)
ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?)?\.alpha")
NUMBERED = re.compile(r"(?P<part>\w+):(?P<number>\d+):(?P<side>up|down|alpha)")
BUNDLED_WORD = re.compile(r"bundle_emb\.(?P<word>.+?)\.(?:string_to_param\.)?(?:\*|emb_params)")
# Longer ones first where one is the beginning of another. LyCORIS names no part: the layer's name tells which it is.
PART_OF_PREFIX = {
    "unet.": "unet",
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "lora_unet_": "unet",
    "lora_unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "cond_stage_model.transformer.": "text_encoder",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te.": "text_encoder",
    "lora_te1.": "text_encoder",
    "lycoris_": "any",
}
# The first attention processors wrote their own names for the layers that they change.
OLD_NAMES = {
    "unet": {"to_out": "to_out.0"},
    "any": {},
    "text_encoder": {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"},
}
# cloneofsimo numbers the layers inside modules of these classes (metadata), in the order of the model's modules; the
# feed-forward part of a block stood before its second attention in older diffusers.
CLONEOFSIMO_CLASSES = {
    "unet": {"CrossAttention": "Attention", "Attention": "Attention", "GEGLU": "GEGLU"},
    "text_encoder": {"CLIPAttention": "CLIPAttention"},
}
EMBEDDING_MARK = "<embed>"
Collected = dict[tuple[str, str], dict[str, Any]]
"""(part, layer) -> its `up`, `down` and `alpha`, as far as the file has them."""


@dataclass(frozen=True)
class Factors:
    """One layer's change: the product up @ down, times alpha / rank (alpha None: times 1)."""

    up: Tensor
    down: Tensor
    alpha: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the change: [out,in] or [out,in,kh,kw]."""
        return self.up.shape[0], *self.down.shape[1:]

    def product(self) -> Tensor:
        """alpha / rank * up @ down, float32, of that shape."""
        strength = 1.0 if self.alpha is None else self.alpha / self.down.shape[0]
        return strength * (self.up.float().flatten(1) @ self.down.float().flatten(1)).view(self.shape)


@dataclass
class LoRA:
    """A LoRA file as read, its layers not yet looked up in a model.

    changes: (part, layer as the file calls it) -> factors; numbered: part -> class names whose layers are numbered
    (cloneofsimo); words: learned words with their vectors [V,D]; made_for: the model that the file names or implies.
    """

    path: Path
    changes: dict[tuple[str, str], Factors] = field(default_factory=dict)
    numbered: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, Tensor] = field(default_factory=dict)
    made_for: str = "another model"

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"LoRA {self.path}"

    def error(self, problem: str, remedy: str = WHICH_FILE) -> ModelUnavailable:
        """What to raise for a file that has this problem."""
        return ModelUnavailable(f"{self.name} {problem}; {remedy}")


def read_lora(lora_path: str) -> LoRA:
    """Read a LoRA file, or a folder with pytorch_lora_weights.safetensors.  Raises ModelUnavailable, one sentence."""
    path = Path(lora_path).expanduser()
    if path.is_dir():
        path = path / FOLDER_FILE
    if not path.is_file():
        raise ModelUnavailable(f"LoRA_path {str(path)!r} does not exist; {WHICH_FILE}")
    lora = LoRA(path)
    contents, metadata = read_file(path, lora.name, WHICH_FILE)
    tensors = _tensors_of(lora, contents)
    _refuse_others(lora, tensors)
    lora.made_for = _model_of(tensors, metadata)
    is_numbered = EMBEDDING_MARK in metadata.values() or any(NUMBERED.fullmatch(key) for key in tensors)
    collected = (_read_numbered if is_numbered else _read_named)(lora, tensors, metadata)
    for (part, layer), values in collected.items():
        lora.changes[part, layer] = _factors(lora, f"{part} {layer}", **values)
    return lora


def _tensors_of(lora: LoRA, contents: Any) -> dict[str, Tensor]:
    contents = contents.get("state_dict", contents) if isinstance(contents, dict) else contents
    if not isinstance(contents, dict) or not all(hasattr(value, "ndim") for value in contents.values()):
        kind = "a bare list, as cloneofsimo's .pt files are" if isinstance(contents, list) else type(contents).__name__
        raise lora.error(f"holds {kind}; expected tensors by name")
    return {str(key): value for key, value in contents.items()}


def _refuse_others(lora: LoRA, tensors: dict[str, Tensor]) -> None:
    """Raise ModelUnavailable for other methods and other families, by what their names hold."""
    for key in tensors:
        for pattern, kind in OTHER_METHODS.items():
            if re.search(pattern, key):
                raise lora.error(f"is {kind} ({key}), which cannot be merged here")
        for pattern, family in FAMILIES.items():
            if re.match(pattern, key):
                raise lora.error(f"is a LoRA of {family} ({key})")


def _model_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """The model that a LoRA was made for: by the width of the text that cross-attention reads, or by its metadata."""
    reads_text = re.compile(r".*attn2[._]to_[kv]\b.*(lora_A|lora_down|lora\.down)")
    for key, value in tensors.items():
        width = value.shape[1] if reads_text.match(key) and value.ndim >= 2 else 0
        if width in (768, 1024, 2048):
            return {**MODEL_OF_WIDTH, 2048: "Stable Diffusion XL"}[width]
    named = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version")
    return f"another model ({named[:60]})" if named else "another model"


def _read_named(lora: LoRA, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Collected:
    """diffusers, peft and kohya: every tensor's name holds part, layer and factor."""
    collected: Collected = {}
    for key, value in tensors.items():
        if word := BUNDLED_WORD.fullmatch(key):
            lora.words[word["word"]] = checked_vectors(value, word["word"], lora.name)
            continue
        found = FACTOR.fullmatch(key) or ALPHA.fullmatch(key)
        if found is None:
            raise lora.error(_what_is(key, tensors))
        if key.startswith("base_model.model."):
            raise lora.error(
                f"is a bare peft adapter ({key}) that does not say its alpha or its model",
                "save it with the pipeline's save_lora_weights, or in kohya format",
            )
        groups = found.groupdict()
        side = "alpha"
        if found.re is FACTOR:
            side = "up" if groups["side"] == "up" or groups["ab"] == "B" else "down"
        collected.setdefault(_part_and_layer(found["layer"]), {})[side] = _value(lora, side, key, value)
    if not collected and not lora.words:
        raise lora.error("holds no weights")
    for (part, layer), values in collected.items():
        values.setdefault("alpha", _peft_alpha(lora, metadata, part, layer, values.get("down")))
    return collected


def _what_is(key: str, tensors: dict[str, Tensor]) -> str:
    """What a file is whose tensor `key` belongs to no LoRA."""
    if key.startswith(("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")):
        return "is a whole checkpoint; name it in model_key"
    if all("." not in name and value.ndim in (1, 2) for name, value in tensors.items()) and key != "weight":
        return "looks like a textual inversion; name it in textual_inversion_path"
    return f"holds {key!r}, which is no LoRA weight"


def _part_and_layer(name: str) -> tuple[str, str]:
    """Part and layer of a name; without a prefix it is the U-Net's, as the first files were written."""
    part = "unet"
    for prefix, candidate in PART_OF_PREFIX.items():
        if name.startswith(prefix):
            part, name = candidate, name.removeprefix(prefix)
    is_old = ".processor." in name or (part == "text_encoder" and ".to_" in name)
    name = name.replace(".processor", "")
    stem, _, last = name.rpartition(".")
    return part, f"{stem}.{OLD_NAMES[part].get(last, last)}" if is_old else name


def _peft_alpha(lora: LoRA, metadata: dict[str, str], part: str, layer: str, down: Tensor | None) -> float | None:
    """alpha of files that peft wrote: in the metadata, one for all layers or by layer; rank-stabilised ones as well."""
    config = _described(lora, metadata, "lora_adapter_metadata", {})
    alpha = config.get(f"{part}.lora_alpha")
    patterns = config.get(f"{part}.alpha_pattern") or {}
    numbers = [alpha or 0, *patterns.values()] if isinstance(patterns, dict) else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise lora.error(f"has an alpha of the {part} that is no number")
    for pattern, value in patterns.items():
        alpha = value if layer.endswith(pattern) else alpha
    if alpha is None or down is None:
        return None
    return float(alpha) * (math.sqrt(down.shape[0]) if config.get(f"{part}.use_rslora", False) else 1.0)


def _value(lora: LoRA, side: str, key: str, value: Tensor) -> Tensor | float:
    """A factor in float32, or alpha."""
    if side != "alpha":
        return check_values(value, key, lora.name)
    if value.numel() != 1 or not math.isfinite(float(value)):
        raise lora.error(f"has {list(value.shape)} as {key}, expected one number")
    return float(value)


def _described(lora: LoRA, metadata: dict[str, str], key: str, default: Any) -> Any:
    """The JSON value of `key` in the metadata, of the default's type."""
    try:
        value = json.loads(metadata[key]) if key in metadata else default
    except (ValueError, RecursionError) as error:
        raise lora.error(f"has metadata {key!r} that is no JSON") from error
    if not isinstance(value, type(default)):
        raise lora.error(f"has metadata {key!r} of another form")
    return value


def _read_numbered(lora: LoRA, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Collected:
    """cloneofsimo: layers by number; the metadata lists the classes they are in and marks learned words."""
    collected: Collected = {}
    for key, value in tensors.items():
        found = NUMBERED.fullmatch(key)
        if found is None and metadata.get(key) == EMBEDDING_MARK:
            lora.words[key] = checked_vectors(value, key, lora.name)
            continue
        if found is None or found["part"] not in CLONEOFSIMO_CLASSES:
            raise lora.error(f"holds {key!r}, which is no LoRA weight")
        part, side = found["part"], found["side"]
        lora.numbered[part] = sorted(map(str, _described(lora, metadata, part, [])))
        if not lora.numbered[part]:
            problem = f"changes numbered layers without the list of their {part} classes"
            raise lora.error(f"{problem}, which cannot be converted")
        if unknown := [name for name in lora.numbered[part] if name not in CLONEOFSIMO_CLASSES[part]]:
            raise lora.error(f"changes layers of {', '.join(unknown)}, which cannot be converted")
        collected.setdefault((part, found["number"]), {})[side] = _value(lora, side, key, value)
    return collected


def _factors(
    lora: LoRA, layer: str, up: Tensor | None = None, down: Tensor | None = None, alpha: float | None = None
) -> Factors:
    """Both factors of a layer, once their shapes agree."""
    if up is None or down is None:
        missing = "up" if up is None else "down"
        raise lora.error(f"has no {missing} weight for {layer}", "the file is incomplete, fetch it again")
    if min(up.ndim, down.ndim) < 2 or not up.shape[1] == down.shape[0] > 0:
        shapes = f"up {list(up.shape)} and down {list(down.shape)}"
        raise lora.error(f"cannot be merged: {layer} has {shapes}, whose ranks differ or are 0", "fetch it again")
    return Factors(up, down, alpha)
