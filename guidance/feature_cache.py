# SPDX-License-Identifier: Apache-2.0
"""Deep U-Net features reused over the rounds of ISM's inversion: DeepCache (Ma et al., CVPR 2024, arXiv:2312.00858).

Consecutive rounds see nearly the same latents under the same text, and the features of the U-Net's deep layers change
little between them. A whole call keeps what enters the last up layer; a cached call computes the first convolution,
that last layer and the output alone. A ControlNet is not called then: what it added to the first skip is kept, too.
Letters of shapes: B views, N samples of a call (views times texts), C latent channels, h w latent size, F features.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from guidance.prior import Prior
from guidance.sd_step import InversionRound, inversion_rounds
from utils.device import send

Features = tuple[Tensor, ...]
"""What a whole call keeps: deep features [N,F,h,w]; with a ControlNet, its part of the first skip connection."""

LAST_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
"""Kinds of a U-Net's last up block that `outer_layers` computes: those of Stable Diffusion 1.x and 2.x."""


def check_unet(unet: Any) -> None:
    """Raise ValueError for a U-Net whose outer layers are not those that `outer_layers` computes."""
    config, block = unet.config, type(unet.up_blocks[-1]).__name__
    given = {"up_block_types": block} if block not in LAST_BLOCKS else {}
    given |= {key: config.get(key) for key in ("center_input_sample", "time_embedding_act_fn") if config.get(key)}
    for key, value in given.items():
        raise ValueError(
            f"the U-Net's config has {key} {value}, which caching of its features does not support; "
            "set GuidanceParams.unet_cache_interval to 1"
        )


def inversion_calls(
    prior: Prior, paths: list[list[int]], interval: int
) -> Iterator[tuple[InversionRound, Callable[..., Tensor]]]:
    """The rounds of an inversion along `paths` in their order, each with what predicts its noise, as `predict_noise`.

    interval: from 2 on, rounds 0, interval, 2 interval, ... and each view's last step compute the whole U-Net, where
    the prior has one; the others use the features of the last such round. A view's last step is whole because its
    prediction is the target of the loss. What a view gets does not depend on the other views.
    """
    rounds = inversion_rounds(paths)
    call = getattr(prior, "predict_noise_cached", None)
    if interval == 1 or call is None:
        yield from ((step, prior.predict_noise) for step in rounds)
        return
    kept = KeptFeatures(call)
    for number, step in enumerate(rounds):
        if number % interval == 0:
            yield step, partial(kept.renew, step.rows)
            continue
        ends = [number == len(paths[row]) - 2 for row in step.rows]
        if cached := step.part([not end for end in ends]):
            yield cached, partial(kept.reuse, cached.rows)
        if last := step.part(ends):
            yield last, prior.predict_noise


class KeptFeatures:
    """The features of the last round that computed the whole U-Net for all of its views."""

    def __init__(self, call: Callable[..., tuple[Tensor, Features]]) -> None:
        self._call = call  # the prior's predict_noise_cached
        self._features: Features = ()
        self._rows: tuple[int, ...] = ()  # views that they are of, repeated for each text

    def renew(self, rows: tuple[int, ...], x_t: Tensor, t: Tensor, embeddings: Tensor, *control: Tensor) -> Tensor:
        """The prediction [N,C,h,w] for the views `rows` by the whole U-Net, whose features are kept."""
        eps, self._features = self._call(x_t, t, embeddings, *control)
        self._rows = rows
        return eps

    def reuse(self, rows: tuple[int, ...], x_t: Tensor, t: Tensor, embeddings: Tensor, *control: Tensor) -> Tensor:
        """The prediction [N,C,h,w] for the views `rows`, some of those kept, by the outer layers."""
        features = self._features
        if rows != self._rows:
            texts, total = len(x_t) // len(rows), len(self._rows)
            places = [self._rows.index(row) + text * total for text in range(texts) for row in rows]
            index = send(places, x_t.device)
            features = tuple(kept[index] for kept in features)
        return self._call(x_t, t, embeddings, *control, features=features)[0]


class DeepFeatures:
    """Within a with block, keeps the deep features that enter a U-Net's last up layer: `value` [N,F,h,w]."""

    def __init__(self, unet: Any) -> None:
        self._layer, self._skip_channels = unet.up_blocks[-1].resnets[-1], unet.conv_in.out_channels
        self.value: Tensor

    def __enter__(self) -> Self:
        self._hook = self._layer.register_forward_pre_hook(self._keep)
        return self

    def _keep(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        self.value = inputs[0][:, : -self._skip_channels]  # the skip connection is concatenated behind them

    def __exit__(self, *_: Any) -> None:
        self._hook.remove()


def outer_layers(
    unet: Any, x: Tensor, t: Tensor, embeddings: Tensor, deep: Tensor, control: Tensor | None = None
) -> Tensor:
    """The U-Net's output from deep features [N,F,h,w]: its first convolution, last up layer and last convolution.

    x [N,C,h,w], t [N], embeddings [N,L,D], control: what a ControlNet adds to the first skip connection.
    """
    time = unet.time_embedding(unet.get_time_embed(sample=x, timestep=t))
    skip = unet.conv_in(x)
    skip = skip if control is None else skip + control
    block = unet.up_blocks[-1]
    hidden = block.resnets[-1](torch.cat([deep, skip], dim=1), time)
    if getattr(block, "has_cross_attention", False):
        hidden = block.attentions[-1](hidden, encoder_hidden_states=embeddings, return_dict=False)[0]
    if unet.conv_norm_out is not None:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    return unet.conv_out(hidden)
