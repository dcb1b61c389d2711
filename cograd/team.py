# SPDX-License-Identifier: Apache-2.0
"""The processes of one run: the first leads it, as if it were alone, the others follow.

Before each step the leader says what is next: its whole state, where the step begins anywhere else than the last one
ended (the first step, after a resumed checkpoint, after going back to one); "go"; or "end". Followers read, write and
decide nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from arguments import Config
from cograd.state import TrainState
from cograd.training_step import StepReport, accumulate_gradients, apply_update
from guidance import load_prior
from guidance.prompts import PromptBook
from guidance.score import Prior
from utils.distributed import World

GO, END = "go", "end"


class Team:
    """The leader's side; remembers at which step the followers are."""

    def __init__(self, world: World) -> None:
        self.world, self._at = world, -1

    def accumulate_gradients(self, state: TrainState, prior: Prior, prompts: PromptBook, config: Config) -> StepReport:
        """`training_step.accumulate_gradients` of all processes together."""
        if self.world.size > 1:
            self.world.broadcast(GO if state.iteration == self._at else state.state_dict())
            self._at = state.iteration + 1
        return accumulate_gradients(state, prior, prompts, config, self.world)

    def end(self) -> None:
        """Lets the followers go; without it they take the leader's leave for a fault."""
        if self.world.size > 1:
            self.world.broadcast(END)


def follow(config: Config, device: torch.device, world: World) -> None:
    """A follower's whole run. Raises ValueError for a prior that cannot be had, PeerLost when the leader is gone."""
    prior = load_prior(config.guidance, device, config.cameras.image_h, config.cameras)
    prompts, order = PromptBook(prior, config.guidance), world.broadcast()
    if order == END:
        return
    state = TrainState.start(config, device, writes=False)  # from the points that the leader has written by now
    state.begin_cograd(config, prior.alphas_cumprod)
    while order != END:
        if order != GO:
            state.load_state_dict(moved(order, device))
        report = accumulate_gradients(state, prior, prompts, config, world)
        apply_update(state, report, config)
        order = world.broadcast()


def moved(tree: Any, device: torch.device | str) -> Any:
    """A tree of dictionaries, lists and values with its tensors on `device`."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to(device)
    if isinstance(tree, dict):
        return {key: moved(value, device) for key, value in tree.items()}
    return [moved(value, device) for value in tree] if isinstance(tree, list | tuple) else tree
