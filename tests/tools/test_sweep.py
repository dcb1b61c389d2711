# SPDX-License-Identifier: Apache-2.0
"""evaluation/experiments/runs.py: what is left to do, failures tried again, slots, and a train.py that fails."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from evaluation.experiments import cluster, grid, runs
from evaluation.experiments.runs import Run, RunFailed, Sweep
from evaluation.run_folder import config_of_run, gaussians_of_run
from trainer.run_lock import RunLock

RUNS = [Run(f"run{k}", ("--iterations", str(k)), {"k": k}) for k in range(6)]


TINY = (
    "--opt", "configs/toy.yaml", "--iterations", "4", "--warmup_iter", "4", "--image_w", "16", "--image_h", "16", "--view_px", "16",
    "--init_num_pts", "60", "--save_video", "false", "--save_process", "false", "--quiet", "true", "--save_ratio", "1",
)  # fmt: skip


def measure(folder, log):
    return {"steps": len(log)}


def gaussians_of(folder, log):
    return {"gaussians": len(gaussians_of_run(folder, config_of_run(folder)).get_xyz)}


@pytest.fixture
def pretended(monkeypatch):
    """run_one without training. Remembers the names; `failing` name -> how often it fails."""

    asked, busy = SimpleNamespace(names=[], failing={}, slots=[]), set()

    def run_one(run, sweep, slot):
        assert slot not in busy
        busy.add(slot)
        asked.names.append(run.name)
        asked.slots.append(slot)
        threading.Event().wait(0.01)
        busy.discard(slot)
        if asked.failing.get(run.name, 0):
            asked.failing[run.name] -= 1
            raise RunFailed("no memory")
        result = {**run.facts, "flags": list(run.flags)}
        runs.write_result(sweep.path(run.name), result)
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    return asked


def test_only_what_is_missing_is_run(tmp_path, pretended) -> None:
    heard = []
    sweep = Sweep(tmp_path, train.main, measure, jobs=2)
    assert runs.run_all(RUNS, sweep, lambda run, result: heard.append((run.name, result["k"]))) == []
    assert sorted(heard) == [(f"run{k}", k) for k in range(6)] and set(pretended.slots) == {0, 1}
    sweep.path("run3").unlink()
    assert [run.name for run in runs.waiting(RUNS, sweep)] == ["run3"]
    runs.run_all(RUNS, sweep, lambda run, result: None)
    assert len(pretended.names) == 7 and len(runs.read_results(tmp_path, ["run1", "none"])) == 1


def test_failures_are_collected_and_tried_again(tmp_path, pretended) -> None:
    pretended.failing.update(run1=1, run4=5)
    heard = []
    failures = runs.run_all(
        RUNS,
        Sweep(tmp_path, train.main, measure, retries=1),
        lambda run, result: heard.append((run.name, isinstance(result, RunFailed))),
    )
    assert failures == ["run4: no memory"]
    assert [name for name, failed in heard if failed] == ["run1", "run4", "run4"] and heard[6] == ("run1", False)


def test_results_of_other_flags_are_not_mixed(tmp_path, pretended) -> None:
    sweep = Sweep(tmp_path, train.main, measure)
    runs.run_all(RUNS[:1], sweep, lambda run, result: None)
    with pytest.raises(
        ValueError, match=r"run0\.json was made with other flags \(--iterations 0, --iterations 9\); give another --out"
    ):
        runs.waiting([Run("run0", ("--iterations", "9"), {})], sweep)


def test_after_an_interrupt_nothing_new_is_started(tmp_path, pretended) -> None:
    def interrupt(run, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run_all(RUNS, Sweep(tmp_path, train.main, measure), interrupt)
    assert len(pretended.names) <= 2
    assert len(runs.read_results(tmp_path, [run.name for run in RUNS])) == len(pretended.names)


def test_train_py_that_fails_is_told_with_its_last_line(tmp_path) -> None:
    left = tmp_path / "runs" / "bad" / "init_points3d.ply"  # of a run that was stopped
    left.parent.mkdir(parents=True)
    left.write_text("half a cloud")
    with pytest.raises(RunFailed, match=r"status 2: +no_such_file\.yaml: cannot be read"):
        runs.run_one(Run("bad", ("--opt", "no_such_file.yaml"), {}), Sweep(tmp_path, train.main, json.dumps))
    assert not left.exists() and not list(tmp_path.glob("*.json"))


def no_measure(folder, log):
    raise ValueError("no CLIP")


def test_what_fails_while_measuring_is_not_told_of_train_py(tmp_path) -> None:
    sweep = Sweep(tmp_path, train.main, no_measure)
    with pytest.raises(RunFailed, match=r"^the run is trained, its measuring ended with status 1: ValueError: no CLIP$"):
        runs.run_one(Run("bad", TINY, {}), sweep)


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
    run = Run("long", (*flags, "--save_video", "false", "--save_process", "false", "--quiet", "true"), {})
    sweep = Sweep(tmp_path, train.main, measure, resume=True)
    folder = sweep.folder("long")

    def kill() -> None:
        while not list(folder.glob("chkpnt*.safetensors")):
            time.sleep(0.02)
        for child in multiprocessing.active_children():
            child.kill()

    watch = threading.Thread(target=kill, daemon=True)
    watch.start()
    with pytest.raises(RunFailed, match="status -9"):
        runs.run_one(run, sweep)
    watch.join()
    with pytest.raises(ValueError, match=r"runs/long was made with other flags \(--iterations 60, --iterations 70\)"):
        runs.waiting([Run("long", tuple("70" if word == "60" else word for word in run.flags[:4]) + run.flags[4:], {})], sweep)
    assert runs.waiting([run], sweep) == [run]
    result = runs.run_one(run, sweep)
    assert result["steps"] == 60 and not {"train_s", "cpu_s"} & result.keys()  # of two processes
    record = json.loads((folder / "run.json").read_text())
    assert len(record["resumed"]) == 1 and record["resumed"][0]["from"].startswith("chkpnt")
    assert not list(folder.glob("chkpnt*")) and not (folder / runs.BEGUN).exists()  # bulky, and of no use any more
    assert [path.name for path in folder.glob("point_cloud/iteration_60/*")] == ["point_cloud.ply.xz"]


def test_a_run_that_was_stopped_between_its_cloud_and_its_json_is_completed(tmp_path) -> None:
    """Its cloud is compressed by then, and is read so."""
    run = Run("short", TINY, {})
    sweep = Sweep(tmp_path, train.main, gaussians_of, resume=True)
    sweep.path("short").mkdir()  # which no file replaces
    with pytest.raises(RunFailed, match="status 1"):
        runs.run_one(run, sweep)
    assert (sweep.folder("short") / "point_cloud" / "iteration_4" / "point_cloud.ply.xz").is_file()
    sweep.path("short").rmdir()
    assert runs.run_one(run, sweep)["gaussians"] == 60


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_another_process_makes_is_left_alone(tmp_path, resume) -> None:
    """Its folder was removed, or what it printed lost."""
    sweep, run = Sweep(tmp_path, train.main, measure, resume=resume), Run("run", TINY, {})
    folder = sweep.folder("run")
    folder.mkdir(parents=True)
    (folder / runs.PRINTED).write_text("step 7")
    lock = RunLock(folder)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    with pytest.raises(RunFailed, match=r"another process is at work in .*runs/run, its run\.lock says which; wait for it"):
        runs.run_one(run, sweep)
    with pytest.raises(RunFailed, match="another process is at work"):
        cluster.write_files(folder, {"printed.txt": b"of a node"})
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    lock.release()
    cluster.write_files(folder, {"printed.txt": b"of a node"})
    assert [path.name for path in folder.iterdir()] == ["printed.txt"]


def test_a_run_that_another_call_has_finished_meanwhile_is_not_made_again(tmp_path) -> None:
    sweep = Sweep(tmp_path, train.main, measure)
    runs.write_result(sweep.path("run1"), {"flags": list(RUNS[1].flags), "k": 1})
    assert runs.run_one(RUNS[1], sweep)["k"] == 1 and not sweep.folder("run1").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_begun_run_is_resumed_with_its_flags_alone(tmp_path, resume) -> None:
    sweep = Sweep(tmp_path, train.main, measure, resume=resume)
    sweep.folder("run1").mkdir(parents=True)
    assert runs.waiting(RUNS[:2], sweep) == RUNS[:2]  # begun by an earlier version, which named no flags
    runs.write_result(sweep.folder("run1") / runs.BEGUN, {"flags": list(RUNS[1].flags)})
    assert runs.waiting(RUNS[:2], sweep) == RUNS[:2]
    other = Run("run1", ("--iterations", "9"), {})
    if not resume:
        assert runs.waiting([other], sweep) == [other]  # which begins again
    else:
        with pytest.raises(ValueError, match=r"runs/run1 was made with other flags \(--iterations 1, --iterations 9\); give"):
            runs.waiting([other], sweep)


ASKING = """
import multiprocessing, os, time
from evaluation.experiments import runs
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


SWEEP = """
from utils import program
if __name__ == "__main__":
    program.start()
import json
import train
from pathlib import Path
from evaluation.experiments import runs
runs.LATE_IMPORTS = ("slow_import", "train")
def main(argv):
    run = runs.Run("run", tuple(argv[1:]), {})
    runs.run_all([run], runs.Sweep(Path(argv[0]), train.main, json.dumps), print)
if __name__ == "__main__":
    program.run(main)
"""
SLOW = """
import time
from pathlib import Path
Path({began!r}).touch()
time.sleep({seconds})
"""


def _interrupted(tmp_path, seconds: float, begins: Path, alone: bool) -> tuple[str, int]:
    """Output and status of a sweep of one long run that receives Ctrl-C once `begins` is there; `alone`: the one process."""
    (tmp_path / "slow_import.py").write_text(SLOW.format(began=str(tmp_path / "began"), seconds=seconds))
    (tmp_path / "sweep.py").write_text(SWEEP)
    words = [sys.executable, "sweep.py", "out", *TINY[:2], "--iterations", "100000", *TINY[4:]]
    environ = {**os.environ, "PYTHONPATH": f"{runs.ROOT}{os.pathsep}{tmp_path}"}
    with (tmp_path / "printed").open("w") as printed:  # no pipe, which the server keeps open until its imports are done
        process = subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=printed, stderr=printed, start_new_session=True)
    while not begins.exists():
        assert process.poll() is None, (tmp_path / "printed").read_text()
        time.sleep(0.02)
    (os.kill if alone else os.killpg)(process.pid, signal.SIGINT)
    process.wait(timeout=100)
    time.sleep(1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the server, which is at its imports
    return (tmp_path / "printed").read_text(), process.returncode


@pytest.mark.parametrize("alone", [False, True])
def test_an_interrupt_while_the_server_imports_is_one_line_at_once(tmp_path, alone) -> None:
    start = time.monotonic()
    assert _interrupted(tmp_path, 60, tmp_path / "began", alone) == ("sweep.py: interrupted\n", 130)
    assert time.monotonic() - start < 60 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("alone", [False, True])
def test_an_interrupt_ends_the_run_that_is_being_made(tmp_path, alone) -> None:
    begins = tmp_path / "out" / "runs" / "run" / "log.jsonl"
    assert _interrupted(tmp_path, 0, begins, alone) == ("sweep.py: interrupted\n", 130)
    assert not (tmp_path / "out" / "run.json").exists()


def test_runs_of_one_name_are_one_run_or_refused(tmp_path, pretended) -> None:
    sweep = Sweep(tmp_path, train.main, measure, jobs=2)
    assert runs.run_all([RUNS[1], RUNS[2], RUNS[1]], sweep, lambda run, result: None) == []
    assert sorted(pretended.names) == ["run1", "run2"]
    with pytest.raises(ValueError, match="two different runs would be called run3; expected"):
        runs.waiting([RUNS[3], Run("run3", ("--iterations", "9"), {})], sweep)


def test_a_value_of_a_grid_that_is_given_twice_counts_once() -> None:
    made = grid.runs_of(grid.ablation_run, 2, prior=["ideal"], front_bias=[0.0, 0.0], prompt=["a red cube"] * 2, variant=["full", "plain", "full"])
    assert [run.facts["variant"] for run in made] == ["full", "plain"] * 2
