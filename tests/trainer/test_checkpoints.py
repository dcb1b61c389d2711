# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from trainer.checkpoints import CheckpointRules, Checkpoints, newest_good, numbered
from trainer.run_lock import FolderLost


class Part:
    """Counts; remembers a tensor."""

    def __init__(self) -> None:
        self.x = torch.zeros(3)

    def state_dict(self):
        return {"x": self.x}

    def load_state_dict(self, state) -> None:
        self.x = state["x"]


@pytest.mark.parametrize(
    ("every", "chosen", "due"),
    [(4, (), [4, 8, 10]), (0, (), []), (0, (3, 7), [3, 7]), (5, (3,), [3, 5, 10]), (100, (), [10])],
)
def test_when_one_is_due(every, chosen, due) -> None:
    rules = CheckpointRules(every, keep=2, chosen=chosen, last=10)
    assert [k for k in range(1, 11) if rules.is_due(k)] == due


def test_the_newest_and_the_chosen_stay(tmp_path) -> None:
    part = Part()
    checkpoints = Checkpoints(tmp_path, {"part": part}, CheckpointRules(1, keep=2, chosen=(2,), last=9))
    (tmp_path / "chkpnt7.pth").write_bytes(b"upstream's")
    for k in range(1, 6):
        part.x += 1
        assert checkpoints.save(k).name == f"chkpnt{k}.safetensors"
    assert [k for k, _ in numbered(tmp_path)] == [5, 4, 2] and (tmp_path / "chkpnt7.pth").exists()
    path, tree = newest_good(tmp_path, pytest.fail)
    part.x = torch.zeros(3)
    checkpoints.load(path, tree)
    assert torch.equal(part.x, torch.full((3,), 5.0))


def test_going_back_does_not_cost_the_checkpoint_just_written(tmp_path) -> None:
    """After a fall-back to step 2 the damaged ones beyond it are still there; what is written counts as new."""
    checkpoints = Checkpoints(tmp_path, {"part": Part()}, CheckpointRules(1, keep=1, chosen=(), last=9))
    for k in (8, 9):
        (tmp_path / f"chkpnt{k}.safetensors").write_bytes(b"damaged")
    checkpoints.save(3)
    assert [k for k, _ in numbered(tmp_path)] == [9, 8, 3]
    told: list[str] = []
    assert newest_good(tmp_path, told.append)[0].name == "chkpnt3.safetensors" and len(told) == 2


def test_those_of_another_run_are_passed_over_where_that_is_asked_for(tmp_path) -> None:
    for step, run in ((3, "mine"), (5, "other")):
        Checkpoints(tmp_path, {"part": Part()}, CheckpointRules(1, 9, (), 9), {"id": run, "settings": {}}).save(step)
    told: list[str] = []
    assert newest_good(tmp_path, told.append, "mine")[0].name == "chkpnt3.safetensors"
    assert len(told) == 1 and "chkpnt5.safetensors is of another run" in told[0]
    assert newest_good(tmp_path, pytest.fail)[0].name == "chkpnt5.safetensors"


def test_a_folder_without_checkpoints(tmp_path) -> None:
    assert newest_good(tmp_path, pytest.fail) is None and newest_good(tmp_path / "none", pytest.fail) is None


def test_a_checkpoint_of_something_else_is_told(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path, {"other": Part()}, CheckpointRules(1, 1, (), 9))
    path = checkpoints.save(1)
    with pytest.raises(
        ValueError, match=r"chkpnt1\.safetensors is not a checkpoint of a training run: it has no 'part'"
    ):
        Checkpoints(tmp_path, {"part": Part()}, CheckpointRules(1, 1, (), 9)).load(
            path, newest_good(tmp_path, print)[1]
        )


def test_nothing_is_written_into_the_folder_of_a_run_that_came_while_the_state_was_gathered(tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    class Slow(Part):
        def state_dict(self):
            folder.rename(tmp_path / "moved")
            folder.mkdir()
            return super().state_dict()

    def guard() -> None:
        if (tmp_path / "moved").exists():
            raise FolderLost("another run's")

    checkpoints = Checkpoints(folder, {"part": Slow()}, CheckpointRules(1, 1, (), 9), guard=guard)
    with pytest.raises(FolderLost):
        checkpoints.save(3)
    assert list(folder.iterdir()) == []
