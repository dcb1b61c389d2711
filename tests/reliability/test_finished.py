# SPDX-License-Identifier: Apache-2.0
"""What a finished run keeps, and what can be done with it."""

import json
import os
import signal
from pathlib import Path

import pytest

import train
from arguments.exit_codes import FINISHED, INTERRUPTED, REFUSED, STOPPED
from scene.gaussian_model import GaussianModel
from tests.reliability.crash import EVERY, words
from tests.reliability.hooks import at_step
from tests.reliability.same_run import log_lines
from tests.trainer.run_folders import contents
from trainer.checkpoints import Checkpoints, numbered
from trainer.disk_use import disk_use
from trainer.outputs import RunOutputs

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


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def _record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


LAST = {
    "scene": (GaussianModel, "save_ply", f"point_cloud/iteration_{STEPS}/point_cloud.ply"),
    "test views": (RunOutputs, "test_views", f"test_six_views/{STEPS}_iteration/render_view_0.png"),
    "turntable": (RunOutputs, "videos", f"videos/{STEPS}_iteration/video_rgb_{STEPS}.mp4"),
    "region maps": (RunOutputs, "region_maps", f"cograd/regions_{STEPS}.png"),
}
"""Kind of output -> what writes it, and its file of the last step."""


@pytest.mark.parametrize("every", [EVERY, 0])
@pytest.mark.parametrize("kind", LAST)
def test_an_output_that_is_missing_at_the_end_is_written_by_the_resumed_run(tmp_path, monkeypatch, kind, every) -> None:
    """Until then the run is not finished, in run.json, for tools/clean.py and for --resume, and has its checkpoint."""
    run, (owner, name, file) = tmp_path / "run", LAST[kind]
    settings = {**QUICK, "checkpoint_every": every, "save_video": kind == "turntable", "save_ratio": 1}

    def fails_at_the_end(*args: object) -> None:
        if STEPS in args or str(STEPS) in Path(str(args[-1])).parent.name:
            _full()
        sound(*args)

    sound = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails_at_the_end)
        assert train.main(words(run, **settings)) == STOPPED
        assert train.main(words(run, **settings, resume="auto")) == STOPPED
    assert "finished_utc" not in _record(run) and numbered(run)[0][0] == STEPS and not disk_use(run).removable
    assert train.main(words(run, **settings, resume="auto")) == FINISHED
    assert (run / file).is_file() and _record(run)["steps"] == STEPS and numbered(run) == []


def test_an_output_lost_before_a_run_was_stopped_is_missing_after_it_is_resumed(tmp_path, monkeypatch, capsys) -> None:
    """But not from a run in another folder that starts from its checkpoint."""
    run, settings = tmp_path / "run", {**QUICK, "keep_last_checkpoint": True}
    at_step(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with monkeypatch.context() as patch:
        patch.setattr(RunOutputs, "test_views", _full)
        assert train.main(words(run, **settings)) == STOPPED and numbered(run)[0][0] == 6
    assert train.main(words(run, **settings, resume="auto")) == STOPPED
    assert "step 10 is done, but not all could be written: test views (1 time). Free" in capsys.readouterr().err
    assert "finished_utc" not in _record(run)
    more = {**settings, "iterations": STEPS + 1, "start_checkpoint": numbered(run)[0][1]}
    assert train.main(words(tmp_path / "other", **more)) == FINISHED


@pytest.mark.parametrize("lost", ["chkpnt", "point_cloud"])
def test_a_scene_or_its_checkpoint_is_there_whatever_is_removed(tmp_path, lost) -> None:
    """A finished run whose scene is gone keeps its checkpoint; one without a checkpoint does not start over."""
    run = tmp_path / "run"
    assert train.main(words(run, **{**QUICK, "keep_last_checkpoint": True})) == FINISHED
    if lost == "point_cloud":
        (run / "point_cloud").rename(tmp_path / "elsewhere")
        text = (run / "config.yaml").read_text().replace("keep_last_checkpoint: true", "keep_last_checkpoint: false")
        (run / "config.yaml").write_text(text)
        assert not disk_use(run).removable
        assert train.main(["--resume", str(run)]) == FINISHED
        assert (run / "point_cloud" / f"iteration_{STEPS}" / "point_cloud.ply").is_file()
    else:
        for _, path in numbered(run):
            path.unlink()
        (run / "run.json").write_text(json.dumps({k: v for k, v in _record(run).items() if k != "finished_utc"}))
        before = contents(run / "point_cloud")
        assert train.main(["--resume", str(run)]) == REFUSED and contents(run / "point_cloud") == before
