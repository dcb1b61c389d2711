# SPDX-License-Identifier: Apache-2.0
"""The processes of one run: the first leads it as if it were alone, the others follow.

Before each step the leader says what is next: its whole state, where the step begins anywhere else than the last one
ended (at first, and after going back to a checkpoint); "go"; "wait", while a viewer holds the run; or "end". Followers
decide and write nothing.
"""

from __future__ import annotations

import time

import torch

from arguments import Config
from guidance.prompts import PromptBook
from guidance.score import Prior
from trainer.distributed import World
from trainer.priors import load_prior_and_prompts
from trainer.state import TrainState
from trainer.step import StepReport, accumulate_gradients, apply_update
from utils.device import resolve_device
from utils.stop_signals import StopSignals

GO, WAIT, END = "go", "wait", "end"
WORD_EVERY_S = 60.0  # far below the patience of trainer.distributed


def device_of(config: Config, world: World) -> torch.device:
    """The device of this process. Raises ValueError for one that it cannot have."""
    device = resolve_device(world.device_name(config.device, torch.cuda.device_count()))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


class Team:
    """The leader's side. Remembers what the followers hold, and whether they wait for word."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._held: tuple[int, int] | None = None
        self._waiting = world.size > 1
        self._last_word_s = 0.0

    def accumulate_gradients(self, state: TrainState, prior: Prior, prompts: PromptBook, config: Config) -> StepReport:
        """`training_step.accumulate_gradients` of all processes together. Raises PeerLost."""
        if self.world.size == 1:
            return accumulate_gradients(state, prior, prompts, config)
        self._waiting = False
        here = state.iteration, state.rollbacks
        self.world.broadcast(GO if self._held == here else state.state_dict())
        report = accumulate_gradients(state, prior, prompts, config, self.world)
        self._held, self._waiting = (state.iteration, state.rollbacks), True
        self._last_word_s = time.monotonic()
        return report

    def hold(self) -> None:
        """Keeps followers from giving up; call it while the run waits. Raises PeerLost."""
        if self._waiting and time.monotonic() - self._last_word_s > WORD_EVERY_S:
            self._waiting = False
            self.world.broadcast(WAIT)
            self._waiting, self._last_word_s = True, time.monotonic()

    def end(self) -> None:
        """Lets followers go that wait for the next step. Others notice that the leader has gone."""
        if self._waiting:
            self._waiting = False
            self.world.broadcast(END)


class Worker:
    """A rank other than 0: its prior and its part of each step. It decides and writes nothing."""

    def __init__(self, config: Config, world: World) -> None:
        """Raises ValueError for a device or a prior that is not available."""
        self.config, self.world, self.device = config, world, device_of(config, world)
        self.prior, self.prompts = load_prior_and_prompts(config, self.device)

    def work(self) -> None:
        """Until rank 0 ends the run. Raises PeerLost when it is gone."""
        config, world = self.config, self.world
        with StopSignals():  # rank 0 heeds them
            order = world.broadcast()
            if order == END:
                return
            state = TrainState.start(config, self.device, writes=False)  # from the points that rank 0 has written
            state.begin_cograd(config, self.prior.alphas_cumprod)
            while order != END:
                if order != WAIT:
                    if order != GO:
                        state.load_state_dict(order)
                    report = accumulate_gradients(state, self.prior, self.prompts, config, world)
                    apply_update(state, report, config)
                order = world.broadcast()
