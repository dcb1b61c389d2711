# SPDX-License-Identifier: Apache-2.0
"""What a distillation loss is: guided prediction and target, whose difference becomes the gradient on the latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arguments import GuidanceParams
from guidance.prior import Conditioning, Prior


@dataclass(frozen=True)
class Residual:
    """What the diffusion model's calls gave, all without gradient. B views, latents C x h x w."""

    x_t: Tensor  # [B,C,h,w]
    eps_hat: Tensor  # [B,C,h,w], guided noise prediction at t
    target: Tensor  # [B,C,h,w], what it is compared with
    t: Tensor  # [B]
    unet_timesteps: list[int]  # calls in order, as the first view saw them


class Loss:
    """A distillation loss of one run: the settings, and what it remembers between steps (here: nothing).

    A loss with trainable parts or other memory keeps them in `state_dict`, which a checkpoint holds.
    """

    def __init__(self, params: GuidanceParams) -> None:
        self.params = params

    def __call__(
        self,
        prior: Prior,
        latents: Tensor,
        noise: Tensor,
        ind_t: Tensor,
        conditioning: Conditioning,
        warm_up_rate: float = 0.0,
    ) -> Residual:
        """The residual for latents and noise [B,C,h,w] at schedule indices ind_t [B]; called without gradient.

        warm_up_rate: 1 at the first step, 0 once OptimizationParams.warmup_iter is over.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on, as nested dictionaries of tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""


def timesteps_of(prior: Prior, indices: Sequence[int]) -> list[int]:
    """Timesteps of schedule indices, for the log."""
    return prior.timesteps_of(torch.tensor(indices)).tolist()
