# SPDX-License-Identifier: Apache-2.0
"""Run folders that are removed, moved or replaced while a process writes into them: never two runs in one."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from arguments.exit_codes import INTERRUPTED, REFUSED, STOPPED
from tests.reliability.crash import words
from tests.reliability.forks import forked_process
from trainer.checkpoints import numbered, run_id_of
from trainer.run_log import read_steps
from utils.tree_file import load_tree

ENDLESS = {"iterations": 1_000_000, "test_ratio": 1, "save_ratio": 1, "densify_until_iter": 0, "save_process": False, "checkpoint_every": 3, "quiet": False}
START_FILES = ("config.yaml", "cfg_args", "cameras.json", "init_points3d.ply")


class Run:
    """train.py --resume auto in a process of its own, forked from a server that has done the imports."""

    def __init__(self, folder: Path, told: Path) -> None:
        self.folder, self._told = folder, told
        self._process = forked_process(_train, words(folder, resume="auto", **ENDLESS), str(told))

    def steps(self) -> list[int]:
        log = self.folder / "log.jsonl"
        return [step["iteration"] for step in read_steps(log)] if log.is_file() else []

    def has_made(self, count: int, beyond: int = 0) -> "Run":
        """Waits until the log holds `count` steps after step `beyond`."""
        while len([step for step in self.steps() if step > beyond]) < count:
            assert self._process.exitcode is None, self.said()
            time.sleep(0.05)
        return self

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def ended(self) -> int:
        self._process.join()
        return self._process.exitcode

    def said(self) -> str:
        return self._told.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _train(argv: list[str], told: str) -> None:
    import torch

    import train

    torch.set_num_threads(1)
    file = os.open(told, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.exit(train.main(argv))


@pytest.fixture
def start(tmp_path):
    """Starts runs and ends what is left of them."""
    runs: list[Run] = []

    def begin(folder: Path) -> Run:
        runs.append(Run(folder, tmp_path / f"told{len(runs)}"))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def _record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_run_whose_folder_went_away_locks_it_again_and_a_second_is_refused(tmp_path, start, how) -> None:
    folder = tmp_path / "run"
    first = start(folder).has_made(3)
    record, files = _record(folder), {name: (folder / name).read_bytes() for name in START_FILES}
    last = first.steps()[-1]
    first.signal(signal.SIGSTOP)  # rmtree stumbles over files that come and go
    shutil.rmtree(folder) if how == "removed" else folder.rename(tmp_path / "moved")
    first.signal(signal.SIGCONT)
    first.has_made(2, beyond=last)
    second = start(folder)
    assert second.ended() == REFUSED and "is in use by process" in second.said()
    first.signal(signal.SIGTERM)
    assert first.ended() == INTERRUPTED and "was removed or moved; the run made it again" in first.said()
    steps = first.steps()
    assert steps == list(range(steps[0], steps[-1] + 1)) and numbered(folder)[0][0] == steps[-1]
    assert {name: (folder / name).read_bytes() for name in START_FILES} == files
    assert _record(folder).items() >= record.items()
    third = start(folder).has_made(1, beyond=steps[-1])  # it can be resumed
    assert f"continuing after step {steps[-1]}" in third.said()


@pytest.mark.parametrize("ended", [False, True], ids=["at work", "ended"])
def test_a_run_whose_folder_was_taken_by_another_stops_and_leaves_it_alone(tmp_path, start, ended) -> None:
    """The second begins while the first is held up, and works, or has ended, when the first goes on."""
    folder = tmp_path / "run"
    first = start(folder).has_made(4)
    own = _record(folder)["run_id"]
    first.signal(signal.SIGSTOP)
    folder.rename(tmp_path / "moved")
    second = start(folder).has_made(3)
    if ended:
        second.signal(signal.SIGTERM)
        assert second.ended() == INTERRUPTED
    first.signal(signal.SIGCONT)
    assert first.ended() == STOPPED and "another run's folder has its place" in first.said(), first.said()
    assert "Traceback" not in first.said()
    if not ended:
        second.signal(signal.SIGTERM)
        assert second.ended() == INTERRUPTED
    steps = second.steps()
    assert steps == list(range(1, len(steps) + 1))  # nothing of the first is among them
    ids = {run_id_of(load_tree(path)) for _, path in numbered(folder)}
    assert ids == {_record(folder)["run_id"]} != {own}
    assert {run_id_of(load_tree(path)) for _, path in numbered(tmp_path / "moved")} == {own}
