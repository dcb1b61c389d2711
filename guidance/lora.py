# SPDX-License-Identifier: Apache-2.0
"""LoRA: low-rank changes of a model's weights, merged into them once: W <- W + LoRA_scale * alpha / rank * up @ down.

A merged LoRA costs nothing at run time and needs no further library. Files that are understood: diffusers and peft
(names with dots), kohya (names with underscores), and cloneofsimo's .safetensors (numbered layers, learned words).

| letter | meaning |
|---|---|
| r | rank of a change |
| up [out,r] or [out,r,1,1] | second factor (peft: lora_B) |
| down [r,in] or [r,in,kh,kw] | first factor (peft: lora_A) |
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidance.sources import ModelUnavailable
from guidance.weights import Components, add_words

FOLDER_FILE = "pytorch_lora_weights.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
WHICH_FILE = "give GuidanceParams.LoRA_path a LoRA of Stable Diffusion 1.x or 2.x in diffusers, peft or kohya format"
# What other methods leave in a name, at its start or anywhere: their change is no product of two matrices, or belongs
# to another architecture.
OTHER_STARTS = {
    "lora_te2_": "a LoRA of Stable Diffusion XL",
    "text_encoder_2.": "a LoRA of Stable Diffusion XL",
    "lora_transformer_": "a LoRA of a transformer such as FLUX",
    "transformer.": "a LoRA of a transformer such as FLUX",
}
OTHER_PIECES = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".lora_mid": "a LoCon with a Tucker core",
    ".oft_": "OFT",
}
FACTOR = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<ab>[AB])(?:\.\w+)?|[._]lora(?:_linear_layer)?[._](?P<side>up|down))\.weight"
)
ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora(?:_linear_layer)?)?\.alpha")
NUMBERED = re.compile(r"(?P<part>\w+):(?P<number>\d+):(?P<side>up|down|alpha)")
PART_OF_PREFIX = {
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
}
# The first attention processors wrote their own names for the layers that they change.
OLD_NAMES = {
    "unet": {"to_out": "to_out.0"},
    "text_encoder": {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"},
}
# cloneofsimo numbers the layers inside modules of these classes (metadata), in the order of the model's modules; the
# feed-forward part of a block stood before its second attention in older diffusers.
CLONEOFSIMO_CLASSES = {
    "unet": {"CrossAttention": "Attention", "Attention": "Attention", "GEGLU": "GEGLU"},
    "text_encoder": {"CLIPAttention": "CLIPAttention"},
}
EMBEDDING_MARK = "<embed>"


@dataclass
class Factors:
    """One layer's change: the product up @ down, times alpha / rank (alpha None: times 1)."""

    up: Tensor | None = None
    down: Tensor | None = None
    alpha: float | None = None


@dataclass
class LoRA:
    """A LoRA file as read, its layers not yet looked up in a model.

    changes: (part, layer as the file calls it) -> factors; numbered: part -> class names whose layers are numbered
    (cloneofsimo); words: learned words with their embeddings [D].
    """

    path: Path
    changes: dict[tuple[str, str], Factors] = field(default_factory=dict)
    numbered: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, Tensor] = field(default_factory=dict)


def read_lora(lora_path: str) -> LoRA:
    """Read a LoRA file, or a folder with pytorch_lora_weights.safetensors.  Raises ModelUnavailable, one sentence."""
    path = Path(lora_path).expanduser()
    if path.is_dir():
        path = path / FOLDER_FILE
    if not path.is_file():
        raise ModelUnavailable(f"LoRA_path {str(path)!r} does not exist; {WHICH_FILE}")
    tensors, metadata = _load(path)
    for key in tensors:
        kinds = [kind for start, kind in OTHER_STARTS.items() if key.startswith(start)]
        kinds += [kind for piece, kind in OTHER_PIECES.items() if piece in key]
        if kinds:
            raise ModelUnavailable(f"LoRA {path} is {kinds[0]} ({key}), which cannot be merged here; {WHICH_FILE}")
    lora = LoRA(path)
    if any(NUMBERED.fullmatch(key) for key in tensors):
        _take_numbered(lora, tensors, metadata)
    else:
        _take_named(lora, tensors, metadata)
    for (part, layer), factors in lora.changes.items():
        _check_pair(lora, f"{part} {layer}", factors)
    return lora


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; pickled ones are read without running anything."""
    from safetensors import safe_open

    if path.suffix not in (".safetensors", *PICKLED):
        raise ModelUnavailable(f"LoRA {path} has suffix {path.suffix!r}; expected .safetensors; {WHICH_FILE}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and torch raise their own classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelUnavailable(f"LoRA {path} cannot be read ({reason}); fetch it again; {WHICH_FILE}") from error
    contents = contents.get("state_dict", contents) if isinstance(contents, dict) else contents
    if not isinstance(contents, dict) or not all(torch.is_tensor(value) for value in contents.values()):
        kind = "a bare list, as cloneofsimo's .pt files are" if isinstance(contents, list) else type(contents).__name__
        raise ModelUnavailable(f"LoRA {path} holds {kind}; expected tensors by name; {WHICH_FILE}")
    return contents, {}


def _take_named(lora: LoRA, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """diffusers, peft and kohya: every tensor's name says part, layer and factor."""
    for key, value in tensors.items():
        found = FACTOR.fullmatch(key) or ALPHA.fullmatch(key)
        if found is None:
            raise ModelUnavailable(f"LoRA {lora.path} holds {key!r}, which is no LoRA weight; {WHICH_FILE}")
        if key.startswith("base_model.model."):
            raise ModelUnavailable(
                f"LoRA {lora.path} is a bare peft adapter ({key}) that does not say its alpha or its model; save it "
                f"with the pipeline's save_lora_weights, or in kohya format"
            )
        groups = found.groupdict()
        factors = lora.changes.setdefault(_part_and_layer(found["layer"]), Factors())
        if "side" not in groups:
            factors.alpha = _alpha(lora, key, value)
        elif groups["side"] == "up" or groups["ab"] == "B":
            factors.up = value
        else:
            factors.down = value
    if not lora.changes:
        raise ModelUnavailable(f"LoRA {lora.path} holds no weights; {WHICH_FILE}")
    _take_peft_alphas(lora, metadata)


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


def _take_peft_alphas(lora: LoRA, metadata: dict[str, str]) -> None:
    """alpha of files that peft wrote: in the metadata, one for all layers or by layer; rank-stabilised ones as well."""
    config = _described(lora, metadata, "lora_adapter_metadata", {})
    for (part, layer), factors in lora.changes.items():
        alpha = config.get(f"{part}.lora_alpha")
        patterns = config.get(f"{part}.alpha_pattern") or {}
        numbers = [alpha or 0, *patterns.values()] if isinstance(patterns, dict) else [None]
        if not all(isinstance(number, int | float) for number in numbers):
            raise ModelUnavailable(f"LoRA {lora.path} has an alpha of the {part} that is no number; {WHICH_FILE}")
        for pattern, value in patterns.items():
            alpha = value if layer.endswith(pattern) else alpha
        if factors.alpha is None and alpha is not None and factors.down is not None:
            stabilised = config.get(f"{part}.use_rslora", False)
            factors.alpha = float(alpha) * (math.sqrt(factors.down.shape[0]) if stabilised else 1.0)


def _alpha(lora: LoRA, key: str, value: Tensor) -> float:
    if value.numel() != 1 or not math.isfinite(float(value)):
        raise ModelUnavailable(f"LoRA {lora.path} has {list(value.shape)} as {key}, expected one number; {WHICH_FILE}")
    return float(value)


def _described(lora: LoRA, metadata: dict[str, str], key: str, default: Any) -> Any:
    """What the metadata says of `key`, in JSON; of the default's type."""
    try:
        said = json.loads(metadata[key]) if key in metadata else default
    except (ValueError, RecursionError) as error:
        raise ModelUnavailable(f"LoRA {lora.path} has metadata {key!r} that is no JSON; {WHICH_FILE}") from error
    if not isinstance(said, type(default)):
        raise ModelUnavailable(f"LoRA {lora.path} has metadata {key!r} of another form; {WHICH_FILE}")
    return said


def _take_numbered(lora: LoRA, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """cloneofsimo: layers by number; the metadata lists the classes they are in and marks learned words."""
    for key, value in tensors.items():
        found = NUMBERED.fullmatch(key)
        if found is None and metadata.get(key) == EMBEDDING_MARK:
            lora.words[key] = value
            continue
        if found is None or found["part"] not in CLONEOFSIMO_CLASSES:
            raise ModelUnavailable(f"LoRA {lora.path} holds {key!r}, which is no LoRA weight; {WHICH_FILE}")
        part = found["part"]
        lora.numbered[part] = sorted(map(str, _described(lora, metadata, part, [])))
        unknown = [name for name in lora.numbered[part] if name not in CLONEOFSIMO_CLASSES[part]]
        if unknown or not lora.numbered[part]:
            told = (
                f"layers of {', '.join(unknown)}"
                if unknown
                else f"numbered layers without the list of their {part} classes"
            )
            raise ModelUnavailable(f"LoRA {lora.path} changes {told}, which cannot be converted; {WHICH_FILE}")
        factors = lora.changes.setdefault((part, found["number"]), Factors())
        if found["side"] == "alpha":
            factors.alpha = _alpha(lora, key, value)
        else:
            setattr(factors, found["side"], value)


def _check_pair(lora: LoRA, layer: str, factors: Factors) -> None:
    if factors.up is None or factors.down is None:
        missing = "up" if factors.up is None else "down"
        raise ModelUnavailable(
            f"LoRA {lora.path} has no {missing} weight for {layer}; the file is incomplete, fetch it again"
        )
    if factors.up.ndim < 2 or factors.down.ndim < 2 or factors.up.shape[1] != factors.down.shape[0]:
        up, down = list(factors.up.shape), list(factors.down.shape)
        raise ModelUnavailable(
            f"LoRA {lora.path}: {layer} has up {up} and down {down}, whose ranks differ; fetch it again"
        )


@torch.no_grad()
def merge_lora(components: Components, lora: LoRA, scale: float = 1.0) -> None:
    """W + scale * alpha / rank * up @ down for every layer of the file, and its learned words.

    Every layer is looked up and measured before the first weight changes.  Raises ModelUnavailable naming the first
    layer that does not fit.
    """
    targets: list[tuple[Any, Factors]] = []
    for part in dict.fromkeys(part for part, _ in lora.changes):
        layers = {layer: factors for (of, layer), factors in lora.changes.items() if of == part}
        module = getattr(components, part)
        targets += (
            _by_number(module, part, layers, lora) if part in lora.numbered else _by_name(module, part, layers, lora)
        )
    for layer, factors in targets:
        delta = scale * change_of(factors).to(layer.weight.device)
        layer.weight.copy_(layer.weight.float() + delta.reshape(layer.weight.shape))
    for word, embedding in lora.words.items():
        add_words(components, {word: embedding}, f"word {word} of LoRA {lora.path}")


def change_of(factors: Factors) -> Tensor:
    """alpha / rank * up @ down, float32: [out,in] or [out,in,kh,kw]."""
    assert factors.up is not None and factors.down is not None, "read_lora has checked both"
    up, down = factors.up.float(), factors.down.float()
    rank = down.shape[0]
    product = up.flatten(1) @ down.flatten(1)
    strength = 1.0 if factors.alpha is None else factors.alpha / rank
    return strength * product.view(up.shape[0], *down.shape[1:])


def _mergeable(module: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name, without the level that only some transformers releases have."""
    layers = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    return {name.removeprefix("text_model."): layer for name, layer in layers.items()}


def _by_name(
    module: nn.Module, part: str, layers: dict[str, Factors], lora: LoRA
) -> Iterator[tuple[nn.Module, Factors]]:
    known = _mergeable(module)
    known |= {name.replace(".", "_"): layer for name, layer in known.items()}  # kohya's spelling
    for name, factors in layers.items():
        plain = name.removeprefix("text_model.").removeprefix("text_model_")
        if plain not in known:
            raise ModelUnavailable(
                f"LoRA {lora.path} changes {part} {name}, which this model does not have; it was made for another "
                f"model, {WHICH_FILE}"
            )
        if not _fits(known[plain], factors):
            raise ModelUnavailable(_misfit(f"{part} {name}", known[plain], factors, lora))
        yield known[plain], factors


def _by_number(module: nn.Module, part: str, layers: dict[str, Factors], lora: LoRA) -> list[tuple[Any, Factors]]:
    """cloneofsimo: the order, of the two that diffusers has had, in which every layer fits."""
    classes = {CLONEOFSIMO_CLASSES[part][name] for name in lora.numbered[part]}
    factors = [layers[number] for number in sorted(layers, key=int)]
    problem = ""
    for old_order in (True, False):
        known = _in_order(module, classes, old_order)
        pairs = list(zip(known, factors, strict=False))
        misfits = [(name, layer, change) for (name, layer), change in pairs if not _fits(layer, change)]
        if len(known) != len(factors):
            problem = (
                f"LoRA {lora.path} changes {len(factors)} layers of the {part}, this model has {len(known)} such; "
            )
            problem += "it was made for another model, " + WHICH_FILE
        elif misfits:
            problem = problem or _misfit(f"{part} {misfits[0][0]}", misfits[0][1], misfits[0][2], lora)
        else:
            return [(layer, change) for (_, layer), change in pairs]
    raise ModelUnavailable(problem)


def _in_order(module: nn.Module, classes: set[str], old_order: bool) -> list[tuple[str, nn.Module]]:
    """Linear layers inside modules of these classes, in the order of the modules."""
    holders = [(name, m) for name, m in module.named_modules() if type(m).__name__ in classes]
    if old_order:  # within a block: attn1, ff, attn2
        place = {name: (name.rpartition(".attn")[0] or name.rpartition(".ff.")[0]) for name, _ in holders}
        blocks = list(dict.fromkeys(place.values()))
        inner = ("attn1", "ff", "attn2")
        holders.sort(key=lambda item: (blocks.index(place[item[0]]), _rank_of(item[0], inner)))
    return [
        (f"{outer}.{name}", layer)
        for outer, holder in holders
        for name, layer in holder.named_modules()
        if isinstance(layer, nn.Linear)
    ]


def _rank_of(name: str, words: tuple[str, ...]) -> int:
    return next((k for k, word in enumerate(words) if f".{word}" in name), 0)


def _fits(layer: Any, factors: Factors) -> bool:
    assert factors.up is not None and factors.down is not None, "read_lora has checked both"
    shape = (factors.up.shape[0], *factors.down.shape[1:])
    ours = tuple(layer.weight.shape)
    squeezed = [tuple(size for k, size in enumerate(s) if k < 2 or size != 1) for s in (shape, ours)]
    return squeezed[0] == squeezed[1] and all(size == 1 for size in factors.up.shape[2:])


def _misfit(name: str, layer: Any, factors: Factors, lora: LoRA) -> str:
    assert factors.up is not None and factors.down is not None, "read_lora has checked both"
    theirs = [factors.up.shape[0], *factors.down.shape[1:]]
    return (
        f"LoRA {lora.path} changes {name} by {theirs}, but this model's weight is {list(layer.weight.shape)}; it was "
        f"made for another model, {WHICH_FILE}"
    )
