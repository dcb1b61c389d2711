# SPDX-License-Identifier: Apache-2.0
import json
import logging
import shutil
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.run_log import PhaseTimer, RunLog, read_steps


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
    fusion = [{"main_norm": 1.0, "cosines": [0.5, 0.1]}, {"main_norm": 3.0, "cosines": []}, {"main_norm": None, "cosines": []}]
    log.step({"iteration": 1, "loss": 0.5, "points": 7, "cograd": {"fusion": fusion, "none": []}})
    log.close()
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in board.Scalars("cograd/fusion/main_norm")] == [2.0]
    assert board.Scalars("cograd/fusion/cosines")[0].value == pytest.approx(0.3)


def _lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_continued_log_forgets_what_came_after_its_checkpoint(tmp_path) -> None:
    """20 steps, a checkpoint after 12, and another end from there on; the curve of the first end is hidden."""
    log = RunLog(tmp_path, iterations=20, quiet=True)
    for iteration in range(1, 21):
        log.step({"iteration": iteration, "loss": 1.0 * iteration, "points": 7})
        if iteration == 12:
            state = log.state_dict()
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"iteration": 21, "lo')  # the process was killed while it wrote
    log = RunLog(tmp_path, iterations=20, quiet=True)
    log.load_state_dict(state)
    for iteration in range(13, 21):
        log.step({"iteration": iteration, "loss": -1.0 * iteration, "points": 7})
    log.close()
    assert [line["loss"] for line in _lines(tmp_path)] == [1.0 * k for k in range(1, 13)] + [-1.0 * k for k in range(13, 21)]
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(10, 10.0), (20, -20.0)]


def test_the_log_of_another_folder_is_not_missed(tmp_path) -> None:
    log = RunLog(tmp_path, iterations=20, quiet=True)
    log.load_state_dict({"iteration": 12, "bytes": 4321, "ema_loss": 2.0})
    log.step({"iteration": 13, "loss": 0.5, "points": 7})
    log.close()
    assert [line["iteration"] for line in _lines(tmp_path)] == [13]


def test_lines_that_cannot_be_written_go_out_later(tmp_path, monkeypatch) -> None:
    """Of a full disk that takes three bytes of a line none is left behind."""
    log = RunLog(tmp_path, iterations=9, quiet=True)
    file = log._lines._file

    class Full:
        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, line):
            return file.write(line[:3])

    log.step({"iteration": 1, "loss": 0.5, "points": 7})
    log._lines._file = Full()
    with pytest.raises(OSError, match="No space left"):
        log.step({"iteration": 2, "loss": 0.5, "points": 7})
    assert [line["iteration"] for line in _lines(tmp_path)] == [1]
    log._lines._file = file
    log.step({"iteration": 3, "loss": 0.5, "points": 7})
    log.close()
    assert [line["iteration"] for line in _lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_log_whose_folder_vanished_is_begun_anew(tmp_path, how) -> None:
    """With TensorBoard's file, which would get its events where nobody looks."""
    folder = tmp_path / "run"
    folder.mkdir()
    log = RunLog(folder, iterations=20, quiet=True)
    for iteration in range(1, 11):
        log.step({"iteration": iteration, "loss": 0.5, "points": 7})
    if how == "removed":
        shutil.rmtree(folder)
    else:
        folder.rename(tmp_path / "elsewhere")
    if how == "replaced":
        folder.mkdir()
        (folder / "log.jsonl").write_text('{"iteration": 1}\n')
    for iteration in range(11, 21):
        log.step({"iteration": iteration, "loss": 0.5, "points": 7})
    log.close()
    assert [line["iteration"] for line in _lines(folder)] == [1] * (how == "replaced") + list(range(11, 21))
    assert [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("loss")] == [20]


def test_events_are_no_steps(tmp_path) -> None:
    log = RunLog(tmp_path, iterations=9, quiet=True)
    log.step({"iteration": 1, "loss": 0.5, "points": 7})
    log.event("rollback", from_step=3, to_step=1)
    log.step({"iteration": 2, "loss": 0.5, "points": 7})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"iteration": 3, "lo')  # killed while it wrote
    assert [step["iteration"] for step in read_steps(tmp_path / "log.jsonl")] == [1, 2]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1]) == {"event": "rollback", "from_step": 3, "to_step": 1}


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


def test_without_tensorboard_everything_else_is_logged(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    log = RunLog(tmp_path, iterations=10, quiet=True)
    log.load_state_dict({"iteration": 8, "bytes": 0, "ema_loss": 2.0})
    for iteration in (9, 10):
        log.step({"iteration": iteration, "loss": 0.5, "points": 7})
    log.close()
    assert [line["iteration"] for line in _lines(tmp_path)] == [9, 10] and not list(tmp_path.glob("events*"))
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["no TensorBoard events are written"]


def test_the_bar_is_drawn_from_begin_to_close_and_warnings_stand_above_it(tmp_path, capsys) -> None:
    log = RunLog(tmp_path, iterations=2)
    assert capsys.readouterr().err == ""
    log.begin()
    log.step({"iteration": 1, "loss": 0.5, "points": 7})
    logging.getLogger("some.package").warning("something is odd")
    log.close()
    log.close()
    drawn = capsys.readouterr().err
    assert "Training" in drawn and "something is odd" in drawn.replace("\r", "\n").splitlines() and drawn.endswith("\n")
    assert not logging.getLogger().handlers or "tqdm" not in type(logging.getLogger().handlers[0]).__name__.lower()
