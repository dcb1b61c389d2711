# SPDX-License-Identifier: Apache-2.0
"""tools/sweep: what is left to do, failures tried again, slots, and a train.py that fails."""

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.sweep import runs
from evaluation.sweep.runs import Job, RunFailed, Sweep

JOBS = [Job(f"job{k}", ("--iterations", str(k)), {"k": k}) for k in range(6)]


def measure(folder, log):
    return {"steps": len(log)}


@pytest.fixture
def pretended(monkeypatch):
    """run_one without training. Remembers the names; `failing` name -> how often it fails."""

    asked, busy = SimpleNamespace(names=[], failing={}, slots=[]), set()

    def run_one(job, sweep, slot):
        assert slot not in busy
        busy.add(slot)
        asked.names.append(job.name)
        asked.slots.append(slot)
        threading.Event().wait(0.01)
        busy.discard(slot)
        if asked.failing.get(job.name, 0):
            asked.failing[job.name] -= 1
            raise RunFailed("no memory")
        result = {**job.facts, "flags": list(job.flags)}
        runs.write_result(sweep.path(job.name), result)
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    return asked


def test_only_what_is_missing_is_run(tmp_path, pretended) -> None:
    heard = []
    sweep = Sweep(tmp_path, measure, jobs=2)
    assert runs.run_all(JOBS, sweep, lambda job, result: heard.append((job.name, result["k"]))) == []
    assert sorted(heard) == [(f"job{k}", k) for k in range(6)] and set(pretended.slots) == {0, 1}
    sweep.path("job3").unlink()
    assert [job.name for job in runs.waiting(JOBS, sweep)] == ["job3"]
    runs.run_all(JOBS, sweep, lambda job, result: None)
    assert len(pretended.names) == 7 and len(runs.read_results(tmp_path, ["job1", "none"])) == 1


def test_failures_are_collected_and_tried_again(tmp_path, pretended) -> None:
    pretended.failing.update(job1=1, job4=5)
    heard = []
    failures = runs.run_all(
        JOBS,
        Sweep(tmp_path, measure, retries=1),
        lambda job, result: heard.append((job.name, isinstance(result, RunFailed))),
    )
    assert failures == ["job4: no memory"]
    assert [name for name, failed in heard if failed] == ["job1", "job4", "job4"] and heard[6] == ("job1", False)


def test_results_of_other_flags_are_not_mixed(tmp_path, pretended) -> None:
    sweep = Sweep(tmp_path, measure)
    runs.run_all(JOBS[:1], sweep, lambda job, result: None)
    with pytest.raises(
        ValueError, match=r"job0\.json was made with other flags \(--iterations 0, --iterations 9\); give another --out"
    ):
        runs.waiting([Job("job0", ("--iterations", "9"), {})], sweep)


def test_after_an_interrupt_nothing_new_is_started(tmp_path, pretended) -> None:
    def interrupt(job, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run_all(JOBS, Sweep(tmp_path, measure), interrupt)
    assert len(pretended.names) <= 2
    assert len(runs.read_results(tmp_path, [job.name for job in JOBS])) == len(pretended.names)


def test_train_py_that_fails_is_told_with_its_last_line(tmp_path) -> None:
    left = tmp_path / "runs" / "bad" / "init_points3d.ply"  # of a run that was stopped
    left.parent.mkdir(parents=True)
    left.write_text("half a cloud")
    with pytest.raises(RunFailed, match=r"status 2: +no_such_file\.yaml: cannot be read"):
        runs.run_one(Job("bad", ("--opt", "no_such_file.yaml"), {}), Sweep(tmp_path, json.dumps))
    assert not left.exists() and not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path) -> None:
    """The process is killed once it has left a checkpoint; called again, the run is completed, not repeated."""
    flags = [
        "--opt",
        "configs/toy.yaml",
        "--iterations",
        "60",
        "--checkpoint_every",
        "10",
        "--image_w",
        "16",
        "--image_h",
        "16",
        "--view_px",
        "16",
        "--init_num_pts",
        "60",
    ]
    job = Job("long", (*flags, "--save_video", "false", "--save_process", "false", "--quiet", "true"), {})
    sweep = Sweep(tmp_path, measure, resume=True)
    folder = sweep.folder("long")

    def kill() -> None:
        while not list(folder.glob("chkpnt*.safetensors")):
            time.sleep(0.02)
        for child in multiprocessing.active_children():
            child.kill()

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    with pytest.raises(RunFailed, match="status -9"):
        runs.run_one(job, sweep)
    watch.join()
    assert runs.run_one(job, sweep)["steps"] == 60
    record = json.loads((folder / "run.json").read_text())
    assert len(record["resumed"]) == 1 and record["resumed"][0]["from"].startswith("chkpnt")
    assert not list(folder.glob("chkpnt*"))  # bulky, and of no use any more


ASKING = """
import multiprocessing, os, time
from evaluation.sweep import runs
def work():
    runs._end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(10_000)
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
"""


def test_a_run_ends_when_the_process_that_asked_for_it_is_killed():
    asking = subprocess.Popen([sys.executable, "-c", ASKING], cwd=runs.ROOT, stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    run = int(asking.stdout.readline())
    assert Path(f"/proc/{run}").exists()
    asking.kill()
    asking.wait()
    asking.stdout.read()  # ends when the run has closed its side too
