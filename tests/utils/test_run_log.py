# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.run_log import PhaseTimer, RunLog


def test_every_number_reaches_jsonl_and_tensorboard(tmp_path) -> None:
    log = RunLog(tmp_path, iterations=12, quiet=True)
    for iteration in range(1, 13):
        log.step({"iteration": iteration, "loss": 0.5 * iteration, "points": 7, "t": [100, 300], "phase_ms": {"render": 1.5}})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [0.5 * k for k in range(1, 13)] and lines[0]["t"] == [100, 300]
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in board.Scalars("loss")] == [5.0, 6.0]
    assert [event.value for event in board.Scalars("t")] == [200.0, 200.0]
    assert [event.step for event in board.Scalars("phase_ms/render")] == [10, 12]  # every tenth, and the last


def test_mappings_by_view_are_averaged(tmp_path) -> None:
    log = RunLog(tmp_path, iterations=1, quiet=True)
    fusion = [{"main_norm": 1.0, "cosines": [0.5, 0.1]}, {"main_norm": 3.0, "cosines": []}]
    log.step({"iteration": 1, "loss": 0.5, "points": 7, "cograd": {"fusion": fusion, "none": []}})
    log.close()
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in board.Scalars("cograd/fusion/main_norm")] == [2.0]
    assert board.Scalars("cograd/fusion/cosines")[0].value == pytest.approx(0.3)


def test_a_new_run_begins_a_new_log_and_a_resumed_one_goes_on(tmp_path) -> None:
    for first in (0, 0, 1):
        log = RunLog(tmp_path, iterations=2, first_iteration=first, quiet=True)
        log.step({"iteration": first + 1, "loss": 0.5, "points": 7})
        log.close()
    assert [json.loads(line)["iteration"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_step_without_loss_is_logged_too(tmp_path) -> None:
    log = RunLog(tmp_path, iterations=1, quiet=True)
    log.step({"iteration": 1, "loss": None, "points": 7, "fault": "guidance is not finite"})
    log.close()
    assert "not finite" in (tmp_path / "log.jsonl").read_text()


def test_phases_add_up() -> None:
    timer = PhaseTimer()
    for _ in range(2):
        with timer("render"):
            pass
    with timer("backward"):
        pass
    assert list(timer.ms) == ["render", "backward"] and timer.ms["render"] > 0
