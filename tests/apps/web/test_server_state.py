# SPDX-License-Identifier: Apache-2.0
"""A run's process and the queue of one, by a stand-in for train.py that heeds SIGTERM as it does."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from apps.web import job as jobs
from apps.web.console import last_sentence
from apps.web.drafts import UNKNOWN_WORDS
from apps.web.fields import Request
from apps.web.job import State
from apps.web.presets import presets
from apps.web.server_state import CannotDelete, CannotStart, ServerState
from tests.apps.web.shown_run import write_run
from tests.patience import PATIENCE_S, until
from trainer.run_lock import RunLock

QUICK = presets()["quickstart"]

STAND_IN = """
import json, pathlib, signal, sys, time
folder, asked = pathlib.Path(sys.argv[2]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
what = (folder / "what").read_text() if (folder / "what").exists() else (folder.parent / "what").read_text()
if what == "fail":
    print("noise\\ntrain.py: the weights are gone;\\n  bring them", file=sys.stderr)
    sys.exit(2)
if what == "mute":
    sys.exit(3)
if what == "die":
    signal.raise_signal(signal.SIGKILL)
(folder / "heeds").touch()
done = int((folder / "done").read_text()) if (folder / "done").exists() else 0
while done < 9 and not asked:
    done += what == "run"
    if what == "run":
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"iteration": done, "loss": 1.0, "points": 5, "phase_ms": {"a": 20.0}}) + "\\n")
    time.sleep(0.02)
(folder / "done").write_text(str(done))
if asked:
    (folder / f"chkpnt{done}.safetensors").write_text("x")
    print(f"train.py: Received SIGTERM; stopped after step {done}", file=sys.stderr)
    sys.exit(75)
"""


@pytest.fixture
def server(tmp_path, monkeypatch) -> ServerState:
    """A server's state whose runs do what the file `what` says: run, hold (no step), fail or die."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(jobs, "TRAIN", script)
    (tmp_path / "out").mkdir()
    _do(server := ServerState(tmp_path / "out"), "run")
    yield server
    for job in filter(None, (server.current, server.queued)):
        job.kill(), job.wait(PATIENCE_S)


def _do(server: ServerState, what: str) -> None:
    (server.output / "what").write_text(what)


CONFIG = Request(QUICK, "a red mug", changed={"OptimizationParams.iterations": "9"}).resolve()


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a dragon", "The prompt 'a dragon' names no object of the toy world; unknown words: 'dragon' (nearest known word: donut): the prior shows a mixture of all objects."),
        ("a red mug on a shelf", "The toy world ignores 'shelf' in the prompt "),
    ],
)
def test_what_the_prior_did_not_understand_stays_below_a_finished_run(server, prompt, told) -> None:
    changed = {"OptimizationParams.iterations": "9", UNKNOWN_WORDS: "true"}
    job = server.submit(Request(QUICK, prompt, changed=changed).resolve())
    assert job.wait(PATIENCE_S) and job.state is State.FINISHED and job.outcome().startswith(told), job.outcome()
    assert server.find(job.name).outcome() == job.outcome()


def test_a_run_begins_and_finishes(server) -> None:
    job = server.submit(CONFIG)
    assert (job.state, job.name, server.current) == (State.STARTING, "a-red-mug", job)
    assert job.wait(PATIENCE_S) and job.state is State.FINISHED and job.progress().step == 9 and job.outcome() == ""
    with pytest.raises(CannotStart, match="a-red-mug is finished; only a run with steps left can resume"):
        server.resume(job)


def test_a_run_that_is_stopped_can_be_gone_on_with(server) -> None:
    _do(server, "hold")
    job = server.submit(CONFIG)
    until((job.folder / "heeds").exists)
    job.stop()
    assert job.state is State.STOPPING and job.wait(PATIENCE_S)
    assert job.state is State.STOPPED and job.outcome() == "The checkpoint of step 0 is kept; Resume continues from it."
    _do(server, "run")
    server.resume(job)
    assert job.wait(PATIENCE_S) and job.state is State.FINISHED


def test_a_run_in_a_long_step_can_be_ended_at_once(server, monkeypatch) -> None:
    monkeypatch.setattr(jobs.signal, "SIGTERM", 0)  # as deaf as a step that takes an hour
    _do(server, "hold")
    job = server.submit(CONFIG)
    job.stop()
    assert not job.wait(0.3) and job.state is State.STOPPING
    job.kill()
    assert job.wait(PATIENCE_S) and job.state is State.STOPPED
    assert job.outcome() == "It ended before its first checkpoint; Resume starts it again."
    assert server.jobs() == [] and server.current is job  # no run in the list, and one that Resume starts
    assert ServerState(server.output).current is None
    _do(server, "run")
    assert server.resume(job).wait(PATIENCE_S) and job.state is State.FINISHED and server.jobs() == [job]


SAVED = ["chkpnt4.safetensors", "point_cloud/iteration_4/point_cloud.ply"]


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("is_stopped", [True, False])
def test_what_has_saved_something_is_listed_whatever_ended_it(server, saved, is_stopped) -> None:
    """Now as by the next server."""
    _do(server, "hold")
    job = server.submit(CONFIG)
    until((job.folder / "heeds").exists)
    (job.folder / saved).parent.mkdir(parents=True, exist_ok=True)
    (job.folder / saved).write_text("x")
    job.kill() if is_stopped else os.killpg(job._process.pid, signal.SIGKILL)
    assert job.wait(PATIENCE_S) and job.state is (State.STOPPED if is_stopped else State.UNFINISHED)
    assert server.jobs() == [job] and job.can_resume
    assert [job.state for job in ServerState(server.output).jobs()] == [State.UNFINISHED]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("fail", "the weights are gone;\n  bring them"),
        ("die", "The run was ended by SIGKILL; perhaps there was too little memory."),
    ],
)
def test_a_run_that_fails_says_why_and_is_no_run(server, what, sentence) -> None:
    _do(server, what)
    job = server.submit(CONFIG)
    assert job.wait(PATIENCE_S) and job.state is State.FAILED and job.outcome() == sentence
    assert not job.can_resume and server.jobs() == [] and server.current is job
    with pytest.raises(CannotStart, match="a-red-mug is failed; only a run with steps left can resume"):
        server.resume(job)
    server.tick()
    assert job.folder.exists() == (what == "die")  # a start that is refused leaves nothing
    assert job.state is State.FAILED and job.outcome() == sentence
    assert ServerState(server.output).current is None  # nor is it one for the next server


def test_a_resumed_run_does_not_give_what_was_printed_before_as_its_reason(server) -> None:
    _do(server, "hold")
    job = server.submit(CONFIG)
    until((job.folder / "heeds").exists)
    job.stop(), job.wait(PATIENCE_S)
    assert "Received SIGTERM" in (job.folder / "console.txt").read_text()
    for what, reason in (("mute", "The run ended with status 3 and printed nothing."), ("fail", "the weights are gone;")):
        _do(server, what)
        assert server.resume(job).wait(PATIENCE_S) and job.state is State.UNFINISHED
        assert job.outcome().startswith(reason), what


def test_a_run_that_breaks_off_after_a_checkpoint_is_not_finished(server) -> None:
    _do(server, "die")
    job = server.submit(CONFIG)
    (job.folder / "chkpnt4.safetensors").write_text("x")
    assert job.wait(PATIENCE_S) and job.state is State.UNFINISHED and server.jobs() == [job]
    assert job.outcome().endswith("too little memory. The checkpoint of step 4 is kept; Resume continues from it.")
    _do(server, "run")
    assert server.resume(job).wait(PATIENCE_S) and job.state is State.FINISHED


def test_a_run_is_renamed_on_the_page_and_keeps_its_folder(tmp_path) -> None:
    job = ServerState(tmp_path).find(write_run(tmp_path).name)
    assert job.label == "a red mug"
    job.rename(f"  my\n<b>mug</b>  {'x' * 200}")
    again = ServerState(tmp_path).find("mug")
    assert again.label == job.label and job.label.startswith("my <b>mug</b> xxx") and len(job.label) == 100
    for nothing in (" ", "\u200b", "\u200d \u202e", ""):
        job.rename("another")
        job.rename(nothing)
        assert ServerState(tmp_path).find("mug").label == "a red mug" == job.label


def test_a_full_disk_leaves_no_folder_of_a_run(server, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        server.submit(CONFIG)
    assert [path.name for path in server.output.iterdir()] == ["what"] and server.current is None


def test_what_another_visitor_has_deleted_is_told_and_does_not_come_back(server) -> None:
    job = server.find(write_run(server.output).name)
    shutil.rmtree(job.folder)
    with pytest.raises(OSError, match="mug has been deleted"):
        job.rename("cup")
    with pytest.raises(CannotDelete, match="mug has been deleted already"):
        server.delete(job)
    assert not job.folder.exists()


def test_a_run_is_deleted_with_the_space_that_it_took(server) -> None:
    job = server.submit(CONFIG)
    with pytest.raises(CannotDelete, match=r"a-red-mug is (starting|running); stop it before"):
        server.delete(job)
    job.wait(PATIENCE_S)
    (job.folder / "deep").mkdir()
    (job.folder / "deep" / "scene.ply").write_bytes(b"x" * 5000)
    (job.folder / "link").symlink_to(server.output / "what")
    other = write_run(server.output)
    assert server.delete(job) > 5000 and not job.folder.exists() and server.find(job.name) is None
    assert (server.output / "what").exists() and server.current.folder == other
    lock = RunLock(other)  # a run of the command line
    with pytest.raises(CannotDelete, match="mug is running, started by another program; stop it before"):
        server.delete(server.find("mug"))
    lock.release()


def test_a_run_whose_folder_is_gone_fails_with_a_sentence(server) -> None:
    _do(server, "hold")
    first, second = server.submit(CONFIG), server.submit(CONFIG)
    (second.folder / "config.yaml").unlink()
    second.folder.rmdir()
    first.kill(), first.wait(PATIENCE_S)
    server.tick()
    assert second.state is State.FAILED and second.outcome().startswith("The run could not be started (")


def test_one_runs_one_waits_and_a_third_is_told_so(server) -> None:
    _do(server, "hold")
    first, second = server.submit(CONFIG), server.submit(CONFIG)
    server.tick()
    assert (first.is_alive, second.state, server.queued) == (True, State.QUEUED, second)
    with pytest.raises(CannotStart, match="a-red-mug-2 is queued: the queue is full"):
        server.submit(CONFIG)
    assert not (server.output / "a-red-mug-3").exists()
    first.kill(), first.wait(PATIENCE_S)
    _do(server, "run")
    server.tick()
    assert server.current is second and server.queued is None and second.wait(PATIENCE_S) and second.state is State.FINISHED


def test_who_leaves_the_line_leaves_no_folder(server) -> None:
    _do(server, "hold")
    server.submit(CONFIG)
    second = server.submit(CONFIG)
    server.cancel_queued()
    assert server.queued is None and not second.folder.exists() and server.find(second.name) is None
    server.cancel_queued()


def test_the_end_of_the_server_is_the_end_of_the_run(server) -> None:
    _do(server, "hold")
    job = server.submit(CONFIG)
    until((job.folder / "heeds").exists)
    server.close()
    assert job.state is State.STOPPED


def test_another_server_finds_the_runs_again(server) -> None:
    job = server.submit(CONFIG)
    job.wait(PATIENCE_S)
    (job.folder / "chkpnt9.safetensors").write_text("x")
    again = ServerState(server.output).find(job.name)
    assert (
        again.state is State.UNFINISHED and again.can_resume and again.progress().step == 9
    )  # no run.json, so: not known
    (job.folder / "run.json").write_text('{"finished_utc": "2026"}')
    assert again.state is State.FINISHED


def test_a_run_of_another_program_has_the_machine(server) -> None:
    """The command line's, or one that an earlier server has left: what is started or resumed here is queued."""
    lock = RunLock(write_run(server.output, "cup"))
    stopped = server.find(write_run(server.output, "mug").name)
    for begin, cancel in ((lambda: server.submit(CONFIG), True), (lambda: server.resume(stopped), False)):
        job = begin()
        server.tick()
        assert (job.state, server.queued, server.running.name) == (State.QUEUED, job, "cup")
        if cancel:
            server.cancel_queued()
    outcome = server.find("cup").outcome()
    assert outcome.startswith(f"Run by process {os.getpid()} on ") and "Stop it there with Ctrl-C" in outcome
    lock.release()
    server.tick()
    assert server.current is stopped and server.queued is None
    assert stopped.wait(PATIENCE_S) and stopped.state is State.FINISHED and server.running is None


def test_a_run_of_the_command_line_is_seen_to_run(tmp_path) -> None:
    server = ServerState(tmp_path / "out")
    assert server.current is None
    folder = write_run(tmp_path / "out")
    job = ServerState(tmp_path / "out").current
    lock = RunLock(folder)
    assert job.state is State.ELSEWHERE and not job.can_resume and not job.is_alive
    lock.release()
    assert job.state is State.UNFINISHED and job.can_resume


@pytest.mark.parametrize("is_own", [True, False])
def test_a_run_that_the_command_line_takes_over_is_seen_to_run(server, is_own) -> None:
    """One of this server's that has ended, and one that was there before it; the current one, and in the list."""
    if is_own:
        folder = server.submit(CONFIG).folder
        until(lambda: server.tick() or server.current.state is State.FINISHED, poll_s=0.05)
    else:
        folder = write_run(server.output)
        server.current = server.find(folder.name)
        server.tick()
    before = server.current
    assert server.find(folder.name) is before
    (folder / "config.yaml").write_text("OptimizationParams: {iterations: 30}\nGuidanceParams: {text: a blue mug}\n")
    os.utime(folder / "config.yaml", (2e9, 2e9))  # by a clock that is finer than the file system's
    lock = RunLock(folder)
    server.tick()
    job = server.current
    assert job is server.find(folder.name) and (job.state, job.prompt, job.log.steps) == (State.ELSEWHERE, "a blue mug", 30)
    lock.release()


def test_the_last_line_stands_in_for_a_sentence() -> None:
    assert last_sentence("", "train.py") == ""
    assert last_sentence("Traceback\n  File\nMemoryError: no\ufffd\r\n\n", "train.py") == "MemoryError: no\ufffd"
    assert last_sentence("train.py: the disk is full\nbye", "train.py") == "the disk is full\nbye"
