# SPDX-License-Identifier: Apache-2.0
"""While a viewer pauses rank 0, workers hear from it in time, and make no step of it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from arguments.load import load_config
from trainer import workers as workers_module
from trainer.distributed import PeerLost, World
from trainer.priors import load_prior_and_prompts
from trainer.state import TrainState
from trainer.workers import END, KEEPALIVE, STEP, Workers, run_worker

SMALL = {
    "iterations": 9,
    "image_w": 16,
    "image_h": 16,
    "init_num_pts": 40,
    "guidance": "ideal",
    "perpneg": False,
    "text": "a red cube",
    "device": "cpu",
}


@dataclass(frozen=True)
class ListedWorld(World):
    """A world of two whose other process is a list: what rank 0 sends is added, what a worker receives is taken."""

    messages: list = field(default_factory=list)
    is_lost: bool = False

    def broadcast(self, message: Any = None) -> Any:
        if self.is_lost:
            raise PeerLost("the other ended")
        if message is None:
            return self.messages.pop(0)
        self.messages.append(message)
        return message


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(workers_module, "KEEPALIVE_EVERY_S", 0.0)


def test_workers_that_wait_are_kept_alive_as_often_as_due(monkeypatch) -> None:
    world, now = ListedWorld(size=2), [0.0]
    monkeypatch.setattr(workers_module.time, "monotonic", lambda: now[0])
    workers = Workers(world)
    for now[0] in (30.0, 61.0, 90.0, 122.0):
        workers.keep_alive()
    assert world.messages == [KEEPALIVE, KEEPALIVE]
    workers.end()
    workers.keep_alive()
    assert world.messages == [KEEPALIVE, KEEPALIVE, END]


def test_a_run_of_one_process_sends_nothing(impatient) -> None:
    world = ListedWorld()
    Workers(world).keep_alive()
    assert world.messages == []


def test_a_lost_worker_ends_the_wait(impatient) -> None:
    world = ListedWorld(size=2, is_lost=True)
    workers = Workers(world)
    with pytest.raises(PeerLost, match="the other ended"):
        workers.keep_alive()
    workers.end()  # sends nothing to a process that is gone


def test_a_worker_makes_a_step_for_each_message_but_keepalive(tmp_path, monkeypatch) -> None:
    config = load_config(
        [word for name, value in {**SMALL, "model_path": tmp_path}.items() for word in (f"--{name}", str(value))]
    )
    state = TrainState.start(config, "cpu")
    made, sound = [], workers_module.training_step
    monkeypatch.setattr(
        workers_module, "training_step", lambda *args: made.append(args[0].iteration + 1) or sound(*args[:4])
    )
    messages = [KEEPALIVE, state.state_dict(), KEEPALIVE, KEEPALIVE, STEP, KEEPALIVE, END]
    device = torch.device("cpu")
    run_worker(config, ListedWorld(messages=messages), device, *load_prior_and_prompts(config, device))
    assert made == [1, 2]
