# SPDX-License-Identifier: Apache-2.0
"""What a finished run keeps, and what can be done with it."""

import json
import os
import signal
from pathlib import Path

import pytest

import train
from arguments.exit_codes import FINISHED, INTERRUPTED, REFUSED
from tests.reliability.crash import EVERY, words
from tests.reliability.hooks import at_step
from tests.reliability.same_run import log_lines
from tests.trainer.run_folders import contents
from trainer.checkpoints import Checkpoints, numbered

STEPS = 10
QUICK = {"test_ratio": 1, "iterations": STEPS, "keep_last_checkpoint": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train.main(words(folder, **QUICK)) == FINISHED
    return folder


def test_a_finished_run_keeps_no_checkpoint_and_all_else(finished) -> None:
    assert numbered(finished) == []
    assert json.loads((finished / "run.json").read_text())["steps"] == STEPS == len(log_lines(finished))
    assert (finished / "point_cloud" / f"iteration_{STEPS}" / "point_cloud.ply").is_file()


@pytest.mark.parametrize("changes", [{"keep_last_checkpoint": True}, {"checkpoint_iterations": f"3 {STEPS}"}])
def test_checkpoints_that_were_asked_for_stay_and_the_run_can_be_trained_further(tmp_path, changes) -> None:
    assert train.main(words(tmp_path / "run", **{**QUICK, **changes})) == FINISHED
    kept = [number for number, _ in numbered(tmp_path / "run")]
    assert kept == ([STEPS, 2 * EVERY] if "keep_last_checkpoint" in changes else [STEPS, 3])
    assert train.main(["--resume", str(tmp_path / "run"), "--iterations", str(STEPS + 2), "--quiet"]) == FINISHED
    assert len(log_lines(tmp_path / "run")) == STEPS + 2


@pytest.mark.parametrize("more", [[], ["--iterations", str(STEPS - 1)], ["--dry-run"]])
def test_to_resume_a_finished_run_is_to_be_told_where_its_scene_is(finished, capsys, more) -> None:
    """So that a job script may give --resume auto again and again. Nothing is changed."""
    before = contents(finished)
    for resume in ("auto", str(finished)):
        given = words(finished, **QUICK, resume="auto") if resume == "auto" else ["--resume", resume]
        assert train.main([*given, *more]) == FINISHED
        told = capsys.readouterr()
        assert f"{finished} is finished: its {STEPS} steps are done, and its scene is in {finished / 'point_cloud'}" in told.out
    assert contents(finished) == before


def test_an_earlier_checkpoint_that_was_asked_for_does_not_undo_the_end(tmp_path, capsys) -> None:
    """Without more steps the run is finished; with more it continues from that checkpoint."""
    asked = {**QUICK, "checkpoint_iterations": 3}
    assert train.main(words(tmp_path / "run", **asked)) == FINISHED
    before = contents(tmp_path / "run")
    assert train.main(words(tmp_path / "run", **asked, resume="auto")) == FINISHED
    assert "is finished" in capsys.readouterr().out and contents(tmp_path / "run") == before
    assert train.main(words(tmp_path / "run", **{**asked, "iterations": STEPS + 2}, resume="auto")) == FINISHED
    assert len(log_lines(tmp_path / "run")) == STEPS + 2


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_more_steps_are_refused_with_what_can_be_done(finished, capsys, more) -> None:
    before = contents(finished)
    assert train.main([*words(finished, **{**QUICK, "iterations": STEPS + 5}, resume="auto"), *more]) == REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert f"trained to step {STEPS + 5}" in line and "--overwrite --keep_last_checkpoint true" in line
    assert contents(finished) == before


def test_a_run_whose_end_could_not_be_noted_keeps_its_checkpoint(tmp_path, monkeypatch) -> None:
    """Without finished_utc it is no finished run: it resumes from there, and nothing but the note is left to do."""

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("trainer.run_folder.RunFolder.finished", full)
        assert train.main(words(tmp_path / "run", **QUICK)) != FINISHED
    assert numbered(tmp_path / "run")[0][0] == STEPS
    assert train.main(words(tmp_path / "run", **QUICK, resume="auto")) == FINISHED
    assert numbered(tmp_path / "run") == []


def test_a_run_that_was_stopped_keeps_its_checkpoint(tmp_path, monkeypatch) -> None:
    at_step(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(words(tmp_path / "run", **QUICK)) == INTERRUPTED
    assert numbered(tmp_path / "run")[0][0] == 6


def test_a_checkpoint_that_cannot_be_removed_costs_nothing_else(tmp_path, monkeypatch, capsys) -> None:
    def busy(self: Checkpoints) -> None:
        raise OSError("Device or resource busy")

    monkeypatch.setattr(Checkpoints, "remove", busy)
    assert train.main(words(tmp_path / "run", **QUICK)) == FINISHED
    assert "could not be removed (Device or resource busy)" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == STEPS
