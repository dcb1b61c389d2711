# SPDX-License-Identifier: Apache-2.0
"""LoRA, merged into a model's weights once: W <- W + LoRA_scale * alpha / r * up @ down (letters: lora_file.py).

diffusers converts the names of layers, peft merges. A merged LoRA costs nothing at run time; nothing of peft remains.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from guidance.components import Components
from guidance.lora_file import WHICH_FILE, Factors, LoRA, read_lora
from guidance.sources import ModelUnavailable
from guidance.textual_inversion import add_words
from utils.failures import first_line
from utils.wording import counted

__all__ = ["merge_lora", "read_lora"]

logger = logging.getLogger(__name__)

# Prefixes of other programs and kohya's, which diffusers knows. LyCORIS does not say which network's layer it names.
TO_KOHYA = {
    r"(model\.)?diffusion_model\.|lora_unet\.|lycoris_(?!text_model|encoder)": "lora_unet_",
    r"text_encoders\.clip_[lh]\.transformer\.|cond_stage_model\.transformer\.|lora_te1?\.|lycoris_": "lora_te_",
}
# cloneofsimo numbers the layers inside modules of these classes (metadata), in the order of the model's modules; the
# feed-forward part of a block stood before its second attention in older diffusers.
CLONEOFSIMO_CLASSES = {
    "unet": {"CrossAttention": "Attention", "Attention": "Attention", "GEGLU": "GEGLU"},
    "text_encoder": {"CLIPAttention": "CLIPAttention"},
}
Places = dict[str, tuple[str, str]]
"""The file's name of a layer -> part, and the model's name without the level that some transformers releases have."""
Layers = dict[str, dict[str, Factors]]
"""part -> the model's name of a layer -> its factors."""


@torch.no_grad()
def merge_lora(components: Components, lora: LoRA, scale: float = 1.0) -> None:
    """W + scale * alpha / r * up @ down for every layer of the file, and its learned words.

    Every layer is looked up and measured before the first weight changes.  A file that changes nothing is reported.
    Raises ModelUnavailable naming the first layer that does not fit, or whose result the weights' dtype cannot hold.
    """
    parts = layers_of(components, lora)
    changed = [_merge(getattr(components, part), part, layers, lora, scale) for part, layers in parts.items()]
    add_words(components, lora.words, lora.name)
    if changed and not any(changed):
        smaller = "are 0, or its changes are smaller than the weights' precision"
        logger.warning("%s changes nothing: its weights, its alpha or GuidanceParams.LoRA_scale %s", lora.name, smaller)
    if not changed and scale != 1:
        logger.warning("%s holds words only: GuidanceParams.LoRA_scale %g has no effect", lora.name, scale)


def layers_of(components: Components, lora: LoRA) -> Layers:
    """All that a file changes, in the shapes of the model, whose weights are not read.  Raises ModelUnavailable."""
    if not any(re.fullmatch(r"\w+:\d+", layer) for layer in lora.layers):
        config = components.unet.config
        return _fit(components, lora, {name: _place(name, f.key, config) for name, f in lora.layers.items()})
    try:
        return _fit(components, lora, _numbered(components, lora, old_order=True))
    except ModelUnavailable:
        return _fit(components, lora, _numbered(components, lora, old_order=False))


def _merge(network: Any, part: str, layers: dict[str, Factors], lora: LoRA, scale: float) -> bool:
    """Merge the changes of one part's layers; whether that changed a weight."""
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.lora import LoraLayer

    changed = False
    try:
        _adapt(network, layers, {key.removeprefix(f"{part}."): value for key, value in lora.of_peft.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise lora.error(f"has settings of peft that it refuses ({first_line(error)})") from error
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            before = layer.weight.clone()
            layer.scale_layer(scale)
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                kind = str(before.dtype).removeprefix("torch.")
                problem = f"brings a weight of {part} {name} beyond the range of {kind}"
                raise lora.error(problem, f"lower GuidanceParams.LoRA_scale, or {WHICH_FILE}") from error
            changed = changed or not torch.equal(layer.weight, before)
    recurse_remove_peft_layers(network)
    del network.peft_config
    return changed


def _adapt(network: Any, layers: dict[str, Factors], settings: dict[str, Any]) -> None:
    """Put peft's layers in the place of those that change.  settings: the file's, of which the alphas are followed."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    ranks = {f"^{name}": len(factors.down) for name, factors in layers.items()}
    alphas = {f"^{name}": factors.alpha for name, factors in layers.items() if factors.alpha is not None}
    others = settings.get("alpha_pattern", {}) if "lora_alpha" in settings else ranks
    config = LoraConfig(
        target_modules=list(layers),
        rank_pattern=ranks,
        alpha_pattern={**others, **alphas},
        lora_alpha=settings.get("lora_alpha", 1),
        use_rslora=settings.get("use_rslora", False),
    )
    state = {f"{name}.lora_A.weight": factors.down for name, factors in layers.items()}
    state |= {f"{name}.lora_B.weight": factors.up for name, factors in layers.items()}
    inject_adapter_in_model(config, network, low_cpu_mem_usage=True, state_dict=state)
    set_peft_model_state_dict(network, state, low_cpu_mem_usage=True)


def _place(name: str, key: str, unet_config: Any) -> tuple[str, str]:
    """Part and layer of what a file calls `name`, its factor down `key`; without a prefix it is the U-Net's."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
    from diffusers.utils.state_dict_utils import StateDictType

    for pattern, kohya in TO_KOHYA.items():
        if found := re.match(pattern, name):
            name = kohya + name[found.end() :].replace(".", "_")
    if name.startswith("lora_"):
        # Block 0 has no attention in Stable Diffusion 1.x and 2.x, which the conversion does not know.
        name = name.replace("output_blocks_2_1_conv", "up_blocks_0_upsamplers_0_conv")
        pair: Any = dict.fromkeys([f"{name}.lora_down.weight", f"{name}.lora_up.weight"])
        try:  # a layer at a time: the conversion takes input_blocks_10 for input_blocks_1 as well
            key = next(iter(StableDiffusionLoraLoaderMixin.lora_state_dict(pair, unet_config=unet_config)[0]))
        except (LookupError, ValueError):
            return "unet", name
    if key.startswith("text_encoder."):
        part, converted = "text_encoder", convert_state_dict_to_peft({key: None}, StateDictType.DIFFUSERS_OLD)
    else:
        part, converted = "unet", convert_unet_state_dict_to_peft({key: None})
    layer = next(iter(converted)).removeprefix(f"{part}.").removesuffix(".lora_A.weight")
    return part, layer.removeprefix("text_model.")


def _numbered(components: Components, lora: LoRA, old_order: bool) -> Places:
    """cloneofsimo's numbers, in one of the two orders that diffusers has had."""
    places: Places = {}
    for part, known in CLONEOFSIMO_CLASSES.items():
        numbers = [layer for layer in lora.layers if re.fullmatch(rf"{part}:\d+", layer)]
        if not numbers:
            continue
        listed = set(map(str, lora.described(part, [])))
        if not listed or listed - known.keys():
            classes = ", ".join(sorted(listed - known.keys())) or "classes that it does not list"
            raise lora.error(f"numbers layers of the {part} in {classes}, which cannot be converted")
        names = _in_order(getattr(components, part), {known[name] for name in listed}, old_order)
        if len(names) != len(numbers):
            raise lora.misfit(f"{counted(len(numbers), 'layer')} of the {part}, this model has {len(names)} such")
        numbers.sort(key=lambda number: int(number.removeprefix(f"{part}:")))
        places |= {number: (part, name) for number, name in zip(numbers, names, strict=True)}
    return places


def _in_order(network: nn.Module, classes: set[str], old_order: bool) -> list[str]:
    """Names of linear layers inside modules of these classes, in the order of the modules."""
    holders = {name: module for name, module in network.named_modules() if type(module).__name__ in classes}
    block_of = {name: re.sub(r"\.(attn\d|ff\..*)$", "", name) for name in holders}
    blocks = list(dict.fromkeys(block_of.values()))
    outer = list(holders)
    if old_order:  # within a block: attn1, ff, attn2
        outer.sort(key=lambda name: (blocks.index(block_of[name]), name.endswith(".attn2")))
    return [
        f"{name}.{inner}".removeprefix("text_model.")
        for name in outer
        for inner, layer in holders[name].named_modules()
        if isinstance(layer, nn.Linear)
    ]


def _fit(components: Components, lora: LoRA, places: Places) -> Layers:
    """The factors in the shapes of the model: some files have a 1x1 convolution's as matrices, or the reverse."""
    fitted: Layers = {}
    known = {part: _changeable(getattr(components, part)) for part in CLONEOFSIMO_CLASSES}
    for file_name, factors in lora.layers.items():
        part, name = places.get(file_name, ("unet", file_name))
        if name not in known[part]:
            raise lora.misfit(f"{part} {name}, which this model does not have")
        name, shape = known[part][name]
        rank, given = len(factors.down), (len(factors.up), *factors.down.shape[1:])
        if _trimmed(given) != _trimmed(shape) or any(size != 1 for size in factors.up.shape[2:]):
            raise lora.misfit(f"{part} {name} by {list(given)}, but this model's weight is {list(shape)}")
        down, up = factors.down.reshape(rank, *shape[1:]), factors.up.reshape(-1, rank, *[1] * len(shape[2:]))
        fitted.setdefault(part, {})[name] = replace(factors, down=down, up=up)
    return fitted


def _changeable(network: nn.Module) -> dict[str, tuple[str, torch.Size]]:
    """Name of a layer that LoRAs change, without a level that only some transformers releases have -> name, shape."""
    layers = ((name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
    return {name.removeprefix("text_model."): (name, layer.weight.shape) for name, layer in layers}


def _trimmed(shape: Sequence[int]) -> list[int]:
    return [size for k, size in enumerate(shape) if k < 2 or size != 1]
