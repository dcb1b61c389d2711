# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from trainer.careful_writes import CarefulWrites
from trainer.run_lock import FolderLost


def _full() -> None:
    raise OSError(28, "No space left on device")


def test_a_failure_is_told_once_and_its_end_too() -> None:
    told: list[str] = []
    writes = CarefulWrites(told.append)
    assert [writes("scene", _full), writes("scene", _full), writes("panel", _full)] == [None] * 3
    assert [text.split(" could")[0] for text in told] == ["scene", "panel"] and "No space left" in told[0]
    assert writes("scene", max, 3, 4) == 4 and told[-1] == "scene can be written again"
    assert writes.missing() == "panel (1 time), scene (2 times)"


def test_what_is_tried_again_is_missing_only_while_it_fails() -> None:
    writes = CarefulWrites(lambda text: None)
    writes("log.jsonl", _full)
    assert writes.missing() == "log.jsonl (1 time)"
    writes("log.jsonl", int)
    assert writes.missing() == ""


def test_a_later_write_of_the_same_step_makes_up_for_one_that_failed() -> None:
    writes = CarefulWrites(lambda text: None)
    for writes.step, write in ((1, _full), (2, int), (3, _full), (3, _full), (3, int)):
        writes("scene", write)
    assert writes.missing() == "scene (1 time)" and writes.lost_at(3) == set()


def test_what_is_lost_is_known_after_a_resume_and_undone_by_a_rollback() -> None:
    """What is tried again is not in a checkpoint, and stays missing while it fails."""
    writes, resumed = CarefulWrites(lambda text: None), CarefulWrites(lambda text: None)
    writes.step = 5
    writes("turntable", _full)
    state = writes.state_dict()
    resumed.load_state_dict(state)
    assert resumed.missing() == "turntable (1 time)" and resumed.lost_at(5) == {"turntable"}
    writes("scene", _full)
    writes("log.jsonl", _full)
    writes.load_state_dict(state)
    assert writes.missing() == "log.jsonl (1 time), turntable (1 time)" and writes.state_dict() == state


def test_nothing_is_written_where_the_guard_refuses(tmp_path) -> None:
    """At any later write either; what it cannot mend is told as any failure."""
    written, guards = [], [lambda: None, lambda: _full(), _lost, _lost]
    writes = CarefulWrites(lambda text: None, lambda: guards[len(tried)]())
    tried: list[int] = []
    for expected in (None, None, FolderLost, FolderLost):
        if expected:
            with pytest.raises(expected):
                writes("log.jsonl", written.append, 1)
        else:
            writes("log.jsonl", written.append, 1)
        tried.append(1)
    assert written == [1] and writes.missing() == "log.jsonl (1 time)"


def _lost() -> None:
    raise FolderLost("another run's")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad frame"),
        RuntimeError("encoder"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        KeyError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_class_costs_that_write_only(error) -> None:
    def write() -> None:
        raise error

    told: list[str] = []
    writes = CarefulWrites(told.append)
    assert writes("panel", write) is None and writes.missing() == "panel (1 time)"
    assert f"panel could not be written ({type(error).__name__}: " in told[0] and "disk" not in told[0]


def test_an_interrupt_is_not_swallowed() -> None:
    def write() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CarefulWrites(print)("scene", write)
