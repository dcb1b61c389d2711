# SPDX-License-Identifier: Apache-2.0
"""What a model takes of memory, found before any weight is read: its networks run on the meta device, where tensors
have shapes and no numbers, and the bytes that are alive are counted.

Letters of shapes: B views, C latent channels, h w latent size, H W image.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guidance.controlnet import residuals
from guidance.skeleton import networks


class LiveBytes(TorchDispatchMode):
    """Counts what operations allocate inside a with block: bytes alive `now`, and their `peak`."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """`known`: tensors that are there already, such as weights."""
        super().__init__()
        self.now = self.peak = 0
        self._seen = {x.untyped_storage()._cdata for x in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := (storage := x.untyped_storage())._cdata) not in self._seen:
                self._seen.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self.now -= count


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model by part, and of its activations: a sample's in a U-Net call, a view's in the autoencoder.

    `unet_layer`: weights of the U-Net's largest layer. `encode_kept` waits for the backward pass after encoding,
    `encode_peak` is the most of both passes; `_recomputed` are those with the autoencoder's blocks recomputed.
    """

    unet: int
    vae: int
    text_encoder: int
    controlnet: int
    unet_layer: int
    unet_sample: int
    encode_kept: int
    encode_peak: int
    encode_peak_recomputed: int
    encode_kept_recomputed: int
    decode: int


def bytes_of(module: nn.Module | None) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    if module is None:
        return 0
    return sum(map(_bytes, [*module.parameters(), *module.buffers()]))


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def footprint(folder: Path, dtype: torch.dtype, size_px: tuple[int, int], with_controlnet: bool = False) -> Footprint:
    """Of the pipeline in `folder` (its configs are read, not its weights) for pictures of size_px, (H, W).

    A ControlNet is taken to be the one that belongs to the U-Net.
    """
    from diffusers import ControlNetModel

    unet, vae, text = networks(folder)
    with torch.device("meta"):
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False) if with_controlnet else None
    for module in (unet, vae, text, control):
        if module is not None:
            module.requires_grad_(False).eval().to(dtype)
    return measure(unet, vae, text, control, size_px)


def measure(unet: Any, vae: Any, text: Any, control: Any, size_px: tuple[int, int]) -> Footprint:
    """Of networks that stand on any one device, the meta device or where they can be run for real."""
    with _lean_attention():
        kept, peak, shape = _encode(vae, size_px)
        kept_again, peak_again = kept, peak
        if vae._supports_gradient_checkpointing:
            vae.enable_gradient_checkpointing()
            kept_again, peak_again, _ = _encode(vae, size_px)
            vae.disable_gradient_checkpointing()
        return Footprint(
            unet=bytes_of(unet),
            vae=bytes_of(vae),
            text_encoder=bytes_of(text),
            controlnet=bytes_of(control),
            unet_layer=max(sum(map(_bytes, layer.parameters(recurse=False))) for layer in unet.modules()),
            unet_sample=_predict(unet, control, shape, size_px),
            encode_kept=kept,
            encode_peak=peak,
            encode_kept_recomputed=kept_again,
            encode_peak_recomputed=peak_again,
            decode=_decode(vae, shape),
        )


def _encode(vae: Any, size_px: tuple[int, int]) -> tuple[int, int, tuple[int, ...]]:
    """(bytes kept for the backward pass, peak of both passes, shape of the latents) of one view."""
    image = _blank(vae, 1, 3, *size_px).requires_grad_()
    with LiveBytes([image, *vae.parameters()]) as live:
        latents = vae.encode(image).latent_dist.mean
        kept = live.now
        latents.backward(torch.empty_like(latents))
    return kept, live.peak, tuple(latents.shape)


@torch.no_grad()
def _decode(vae: Any, shape: tuple[int, ...]) -> int:
    with LiveBytes([*vae.parameters()]) as live:
        vae.decode(_blank(vae, *shape))
    return live.peak


@torch.no_grad()
def _predict(unet: Any, control: Any, shape: tuple[int, ...], size_px: tuple[int, int]) -> int:
    """The most of one sample's activations in a call, the ControlNet's included."""
    x, text = _blank(unet, *shape), _blank(unet, 1, 77, unet.config.cross_attention_dim)
    t, picture = torch.zeros(1, dtype=torch.int64, device=x.device), _blank(unet, 1, 3, *size_px)
    weights = [*unet.parameters(), *(control.parameters() if control is not None else ())]
    with LiveBytes([x, text, t, picture, *weights]) as live:
        added: dict[str, Any] = {} if control is None else residuals(control, x, t, text, picture)
        unet(x, t, encoder_hidden_states=text, **added)
    return live.peak


def _blank(module: Any, *shape: int) -> Tensor:
    weight = next(module.parameters())
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


@contextlib.contextmanager
def _lean_attention() -> Iterator[None]:
    """On the meta device, attention as the fused kernels do it; torch would take the one that writes its matrix."""
    real = functional.scaled_dot_product_attention

    def lean(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        if q.device.type != "meta":
            return real(q, k, v, *args, **options)
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled())[0]

    with mock.patch.object(functional, "scaled_dot_product_attention", lean):
        yield
