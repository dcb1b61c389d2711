# SPDX-License-Identifier: Apache-2.0
"""LoRA, merged into a model's weights once: W <- W + LoRA_scale * alpha / rank * up @ down (letters: lora_file.py).

A merged LoRA costs nothing at run time and needs no further library.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from guidance.components import Components
from guidance.layer_names import original_names
from guidance.lora_file import CLONEOFSIMO_CLASSES, WHICH_FILE, Factors, LoRA, read_lora
from guidance.sources import ModelUnavailable
from guidance.textual_inversion import add_words
from utils.wording import counted

__all__ = ["merge_lora", "read_lora"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def merge_lora(components: Components, lora: LoRA, scale: float = 1.0) -> None:
    """W + scale * alpha / rank * up @ down for every layer of the file, and its learned words.

    Every layer is looked up and measured before the first weight changes.  A file that changes nothing is reported.
    Raises ModelUnavailable naming the first layer that does not fit, or whose result the weights' dtype cannot hold.
    """
    targets = layers_of(components, lora)
    changed = [_merge(layer, name, scale * factors.product(), lora) for name, layer, factors in targets]
    add_words(components, lora.words, lora.name)
    if not any(changed):
        _report_no_effect(lora, targets, scale)


def layers_of(components: Components, lora: LoRA) -> list[tuple[str, nn.Module, Factors]]:
    """(name, layer, its change) of everything that a file changes.  Raises ModelUnavailable for what does not fit."""
    known = {part: _names(getattr(components, part)) for part in ("unet", "text_encoder")}
    by_part: dict[str, dict[str, Factors]] = {}
    for (part, layer), factors in lora.changes.items():
        if part == "any":
            part = "text_encoder" if _plain(layer) in known["text_encoder"] else "unet"
        by_part.setdefault(part, {})[layer] = factors
    targets: list[tuple[str, nn.Module, Factors]] = []
    for part, layers in by_part.items():
        if part in lora.numbered:
            targets += _by_number(getattr(components, part), part, layers, lora)
        else:
            targets += _by_name(known[part], part, layers, lora)
    return targets


def _merge(layer: Any, name: str, delta: Tensor, lora: LoRA) -> bool:
    """Add `delta` to a layer's weight; whether that changed it.  The range is checked before the conversion."""
    weight: Tensor = layer.weight
    merged = weight.float() + delta.to(weight.device).reshape(weight.shape)
    largest = float(merged.abs().max())
    if not largest <= torch.finfo(weight.dtype).max:
        kind = str(weight.dtype).removeprefix("torch.")
        raise ModelUnavailable(
            f"{lora.name} brings a weight of {name} to {largest:.3g}, beyond the range of {kind}; lower "
            f"GuidanceParams.LoRA_scale, or {WHICH_FILE}"
        )
    new = merged.to(weight.dtype)
    changed = not torch.equal(new, weight)
    weight.copy_(new)
    return changed


def _report_no_effect(lora: LoRA, targets: list[tuple[str, nn.Module, Factors]], scale: float) -> None:
    if not targets:
        if scale != 1:
            logger.warning("%s holds words only: GuidanceParams.LoRA_scale %g has no effect", lora.name, scale)
        return
    if scale == 0:
        reason = "GuidanceParams.LoRA_scale is 0"
    elif all(factors.alpha == 0 for _, _, factors in targets):
        reason = "its alpha is 0"
    elif not any(factors.product().any() for _, _, factors in targets):
        reason = "its weights are 0"
    else:
        reason = "its changes are smaller than the weights' precision"
    logger.warning("%s changes nothing: %s", lora.name, reason)


def _names(module: nn.Module) -> dict[str, nn.Module]:
    """A part's layers by each name that files have for them: today's, the original checkpoint's, kohya's of both."""
    known: dict[str, nn.Module] = {
        _plain(name): m for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    }
    known |= {old: known[new] for new, old in original_names(known).items()}
    return known | {name.replace(".", "_"): layer for name, layer in known.items()}


def _plain(name: str) -> str:
    """A layer's name without the level that only some transformers releases have."""
    return name.removeprefix("text_model.").removeprefix("text_model_")


def _by_name(
    known: dict[str, nn.Module], part: str, layers: dict[str, Factors], lora: LoRA
) -> Iterator[tuple[str, nn.Module, Factors]]:
    for name, factors in layers.items():
        layer = known.get(_plain(name))
        if layer is None:
            problem = f"changes {part} {name}, which this model does not have"
            raise lora.error(problem, f"it was made for {lora.made_for}, {WHICH_FILE}")
        if not _fits(layer, factors):
            raise _misfit(f"{part} {name}", layer, factors, lora)
        yield f"{part} {name}", layer, factors


def _by_number(
    module: nn.Module, part: str, layers: dict[str, Factors], lora: LoRA
) -> list[tuple[str, nn.Module, Factors]]:
    """cloneofsimo: the order, of the two that diffusers has had, in which every layer fits."""
    classes = {CLONEOFSIMO_CLASSES[part][name] for name in lora.numbered[part]}
    factors = [layers[number] for number in sorted(layers, key=int)]
    misfit: ModelUnavailable | None = None
    for old_order in (True, False):
        known = _in_order(module, classes, old_order)
        if len(known) != len(factors):
            raise lora.error(
                f"changes {counted(len(factors), 'layer')} of the {part}, this model has {len(known)} such",
                f"it was made for {lora.made_for}, {WHICH_FILE}",
            )
        pairs = [(f"{part} {name}", layer, change) for (name, layer), change in zip(known, factors, strict=True)]
        misfits = [_misfit(*pair, lora) for pair in pairs if not _fits(*pair[1:])]
        if not misfits:
            return pairs
        misfit = misfit or misfits[0]
    assert misfit is not None, "the loop has run"
    raise misfit


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
    squeezed = [[size for k, size in enumerate(s) if k < 2 or size != 1] for s in (factors.shape, layer.weight.shape)]
    return squeezed[0] == squeezed[1] and all(size == 1 for size in factors.up.shape[2:])


def _misfit(name: str, layer: Any, factors: Factors, lora: LoRA) -> ModelUnavailable:
    return lora.error(
        f"changes {name} by {list(factors.shape)}, but this model's weight is {list(layer.weight.shape)}",
        f"it was made for {lora.made_for}, {WHICH_FILE}",
    )
