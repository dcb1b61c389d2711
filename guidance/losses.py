# SPDX-License-Identifier: Apache-2.0
"""The distillation loss of one run: its law (distillation/), on the run's prior, and what the law remembers."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from arguments import GuidanceParams
from guidance.law_step import StepInfo, ViewStep
from guidance.predictor import Cameras, Predictor
from guidance.prior import Conditioning, Prior
from utils.tree_file import changed_by_saving

__all__ = ["Loss", "Residual", "StepInfo"]


@dataclass(frozen=True)
class Residual:
    """What a law made of the network's predictions, all without gradient. B views, latents C x h x w."""

    x_t: Tensor  # [B,C,h,w], where eps_hat was predicted
    eps_hat: Tensor  # [B,C,h,w], the guided prediction, or what the law has in its place
    difference: Tensor  # [B,C,h,w], the residual itself
    t: Tensor  # [B], timesteps
    unet_timesteps: list[int]  # calls in order, as the first view saw them
    samples: int  # of the network, over all views

    @classmethod
    def of(cls, step: ViewStep, difference: Tensor) -> Self:
        """That of a step whose law has computed `difference`."""
        if not isinstance(difference, Tensor):
            raise ValueError(
                f"the distillation law {step.params.law_name} returned {difference!r:.80}; "
                f"expected a tensor of shape {tuple(step.x.shape)}"
            )
        if step.shown is None or difference.shape != step.x.shape:
            raise ValueError(
                f"the distillation law {step.params.law_name} returned {tuple(difference.shape)} after "
                f"{len(step.first_calls)} predictions; expected {tuple(step.x.shape)} after one or more"
            )
        x_t, index, eps_hat = step.shown
        calls = step.prior.timesteps_of(torch.cat(step.first_calls)).tolist()
        return cls(x_t, eps_hat, difference, step.timesteps(index), calls, step.samples)

    @property
    def target(self) -> Tensor:
        """What eps_hat would have to be for no gradient."""
        return self.eps_hat - self.difference


class Loss:
    """The law that the settings name. `predictor` is the model of the run's renders, of a law that needs one."""

    def __init__(self, params: GuidanceParams) -> None:
        self.params, self.law = params, params.law
        self.memory: dict[str, Any] = {}
        self.predictor: Predictor | None = None

    def view(
        self,
        prior: Prior,
        latents: Tensor,
        noise: Tensor,
        ind_t: Tensor,
        conditioning: Conditioning,
        info: StepInfo | None = None,
    ) -> ViewStep:
        """What the law sees of a step: latents and noise [B,C,h,w] at schedule indices ind_t [B].

        The host reads ind_t, which decides the calls, and nothing else.
        """
        info, params = info or StepInfo(), self.params
        return ViewStep(prior, params, latents, noise, ind_t.tolist(), conditioning, info, self.memory, self.predictor)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """The body of a `with` block calls the law.

        ValueError where that ends the program, or leaves in `memory` what a checkpoint would not bring back.
        """
        name = self.params.law_name
        try:
            yield
        except SystemExit as error:
            raise ValueError(
                f"the distillation law {name} ends the program (SystemExit: {error}); expected a tensor, or an error"
            ) from error
        if changed := changed_by_saving(self.memory, "step.memory"):
            raise ValueError(
                f"the distillation law {name} keeps {changed}, which a checkpoint does not bring back as it is; "
                "expected dictionaries with string keys, lists, tensors, numbers, strings and None"
            )

    def __call__(self, *inputs: Any) -> Residual:
        """The residual, from the arguments of `view`; called without gradient."""
        step = self.view(*inputs)
        with self.watched():
            return Residual.of(step, self.law.residual(step))

    def observe(self, latents: Tensor, cameras: Cameras) -> None:
        """All views' latents [B,C,h,w] of a step without a fault, on every process of the run."""
        if self.predictor is not None:
            self.predictor.observe(latents, cameras)

    def state_dict(self) -> dict[str, Any]:
        """What later steps depend on, as nested dictionaries of tensors and plain values."""
        state = {"memory": dict(self.memory)} if self.memory else {}
        return state | ({} if self.predictor is None else {"predictor": self.predictor.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self.memory = dict(state.get("memory", {}))
        if self.predictor is not None:
            self.predictor.load_state_dict(state.get("predictor", {}))
