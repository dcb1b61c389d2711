# SPDX-License-Identifier: Apache-2.0
"""While a viewer holds the leader, followers hear from it in time, and make no step of it."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from arguments.load import load_config
from trainer import workers as team
from trainer.distributed import PeerLost, World
from trainer.state import TrainState
from trainer.workers import END, GO, WAIT, Team, Worker

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
class Said(World):
    """A world of two whose other process is a list: what a leader says is added, what a follower hears is taken."""

    words: list = field(default_factory=list)
    is_lost: bool = False

    def broadcast(self, tree: Any = None) -> Any:
        if self.is_lost:
            raise PeerLost("the other ended")
        if tree is None:
            return self.words.pop(0)
        self.words.append(tree)
        return tree


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(team, "WORD_EVERY_S", 0.0)


def test_the_leader_says_so_as_often_as_due_while_others_wait(monkeypatch) -> None:
    world, now = Said(size=2), [0.0]
    monkeypatch.setattr(team.time, "monotonic", lambda: now[0])
    leader = Team(world)
    for now[0] in (30.0, 61.0, 90.0, 122.0):
        leader.hold()
    assert world.words == [WAIT, WAIT]
    leader.end()
    leader.hold()
    assert world.words == [WAIT, WAIT, END]


def test_a_run_of_one_process_says_nothing(impatient) -> None:
    world = Said()
    Team(world).hold()
    assert world.words == []


def test_a_lost_follower_ends_the_wait(impatient) -> None:
    world = Said(size=2, is_lost=True)
    leader = Team(world)
    with pytest.raises(PeerLost, match="the other ended"):
        leader.hold()
    leader.end()  # says nothing to who is gone


def test_a_follower_makes_a_step_for_each_word_but_wait(tmp_path, monkeypatch) -> None:
    config = load_config(
        [word for name, value in {**SMALL, "model_path": tmp_path}.items() for word in (f"--{name}", str(value))]
    )
    state = TrainState.start(config, "cpu")
    made, sound = [], team.apply_update
    monkeypatch.setattr(team, "apply_update", lambda *words: (made.append(words[1].iteration), sound(*words)))
    Worker(config, Said(words=[WAIT, state.state_dict(), WAIT, WAIT, GO, WAIT, END])).work()
    assert made == [1, 2]
