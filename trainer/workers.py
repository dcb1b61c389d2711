# SPDX-License-Identifier: Apache-2.0
"""The processes of one run: rank 0 runs as if it were alone, the others (workers) follow its messages.

Before each step rank 0 sends what is next: its whole state, where the step begins anywhere else than the last one ended
(at first, and after a rollback); STEP; KEEPALIVE, while a viewer holds the run; or END. Workers decide and write
nothing.
"""

import time

import torch

from arguments import Config
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from trainer.distributed import World
from trainer.state import TrainState
from trainer.step import training_step
from utils.device import resolve_device
from utils.stop_signals import StopSignals
from utils.tree_file import moved

STEP, KEEPALIVE, END = "step", "keepalive", "end"
KEEPALIVE_EVERY_S = 60.0  # far below the timeout of trainer.distributed


def device_of(config: Config, world: World) -> torch.device:
    """The device of this process. Raises ValueError for one that is not available."""
    device = resolve_device(world.device_name(config.device, torch.cuda.device_count()))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


class Workers:
    """Rank 0's side. Remembers which state the workers have, and whether they wait for a message."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._synced: tuple[int, int] | None = None
        self._waiting = world.size > 1
        self._last_message_s = 0.0

    def begin_step(self, state: TrainState) -> None:
        """Before `compute_gradients`. Raises PeerLost."""
        if self.world.size > 1:
            self._waiting = False
            is_synced = self._synced == (state.iteration, state.rollbacks)
            self.world.broadcast(STEP if is_synced else moved(state.state_dict(), "cpu"))

    def end_step(self, state: TrainState) -> None:
        """After `compute_gradients`: the workers make the update without further messages."""
        self._synced, self._waiting = (state.iteration, state.rollbacks), self.world.size > 1
        self._last_message_s = time.monotonic()

    def keep_alive(self) -> None:
        """To be called again and again while the run waits, so that workers do not time out. Raises PeerLost."""
        if self._waiting and time.monotonic() - self._last_message_s > KEEPALIVE_EVERY_S:
            self._waiting = False
            self.world.broadcast(KEEPALIVE)
            self._waiting, self._last_message_s = True, time.monotonic()

    def end(self) -> None:
        """Ends workers that wait for the next step. Others notice that rank 0 is gone."""
        if self._waiting:
            self._waiting = False
            self.world.broadcast(END)


def run_worker(config: Config, world: World, device: torch.device, prior: Prior, prompts: PromptEmbeddings) -> None:
    """A rank other than 0: its part of each step, until rank 0 ends the run. Raises PeerLost when rank 0 is gone."""
    with StopSignals():  # rank 0 handles them
        message = world.broadcast()
        if message == END:
            return
        captured = message["gaussians"] if isinstance(message, dict) else None  # rank 0's state, before its first step
        state = TrainState.start(config, device, writes=False, captured=captured)
        state.begin_cograd(config, prior.alphas_cumprod)
        state.begin_predictor(prior, prompts)
        while message != END:
            if message != KEEPALIVE:
                if message != STEP:
                    state.load_state_dict(message)
                training_step(state, prior, prompts, config, world)
            message = world.broadcast()
