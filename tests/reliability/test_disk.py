# SPDX-License-Identifier: Apache-2.0
"""A disk that is full and a folder that goes away: told, survived while that can be, and nothing good is lost."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors import SafetensorError

import train
import utils.tree_file
from arguments.exit_codes import FINISHED, STOPPED
from tests.reliability.crash import words
from tests.reliability.hooks import at_step
from tests.reliability.same_run import differences, log_lines
from trainer.checkpoints import newest_good, numbered

PLAIN = {
    "test_ratio": 1, "iterations": 14, "vis_interval": 100, "densify_until_iter": 0, "save_ratio": 1,
    "CoGradParams.enabled": False, "keep_checkpoints": 1,
}  # fmt: skip


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB; only root may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("no right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, pytest.raises(OSError):
        for size in (1 << 16, 1):
            while True:
                if file.write(b"\0" * size) < size:
                    break
        file.write(b"\0")


def test_a_full_disk_is_told_and_a_freed_one_gets_all_of_it(small_disk, tmp_path, monkeypatch, capsys) -> None:
    """Full from step 6 to step 10; the checkpoint of step 4 is whole all the while, in the end nothing is missing."""
    whole = []

    def free():
        whole.append(newest_good(small_disk / "run", print)[0].name)
        (small_disk / "ballast").unlink()

    assert train.main(words(tmp_path / "sound", **PLAIN)) == FINISHED
    at_step(monkeypatch, 6, lambda: _fill(small_disk / "ballast"))
    at_step(monkeypatch, 10, free)
    assert train.main(words(small_disk / "run", **PLAIN)) == FINISHED
    told = capsys.readouterr().out
    assert whole == ["chkpnt4.safetensors"]
    for kind in ("log.jsonl", "checkpoint"):
        assert told.count(f"{kind} could not be written") == told.count(f"{kind} can be written again") == 1
    assert "No space left on device" in told
    assert differences(tmp_path / "sound", small_disk / "run") == []


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_good(tmp_path, monkeypatch, capsys) -> None:
    """The library's own word for a full disk, from the third checkpoint on."""
    sound, calls = utils.tree_file.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        sound(tensors, path, metadata)

    monkeypatch.setattr(utils.tree_file, "save_file", full)
    assert train.main(words(tmp_path / "run", **PLAIN)) == STOPPED
    told = capsys.readouterr()
    assert told.out.count("checkpoint could not be written") == 1
    assert "step 14 is done, but not all could be written: checkpoint (2 times)" in told.err
    assert newest_good(tmp_path / "run", pytest.fail)[0].name == "chkpnt8.safetensors"
    assert len(numbered(tmp_path / "run")) == 1 and not list((tmp_path / "run").glob(".*.part"))
    assert (tmp_path / "run" / "point_cloud" / "iteration_14" / "point_cloud.ply").is_file()


def test_a_folder_that_vanished_is_told_and_made_anew(tmp_path, monkeypatch, capsys) -> None:
    """Complete again, but for the steps before; a checkpoint is written at once."""
    start, run = ("config.yaml", "cfg_args", "cameras.json", "init_points3d.ply"), tmp_path / "run"
    before, checkpoints = {}, []

    def remove():
        before.update({name: (run / name).read_bytes() for name in start}, record=json.loads((run / "run.json").read_text()))
        shutil.rmtree(run)

    at_step(monkeypatch, 6, remove)
    at_step(monkeypatch, 7, lambda: checkpoints.extend(numbered(run)))
    assert train.main(words(run, **PLAIN)) == FINISHED
    told = capsys.readouterr()
    assert "was removed or moved; the run made it again" in told.out and "could not be written" not in told.out
    assert [line["iteration"] for line in log_lines(run)] == list(range(6, 15))
    assert (run / "point_cloud" / "iteration_14" / "point_cloud.ply").is_file()
    assert newest_good(run, pytest.fail)[0].name == "chkpnt14.safetensors"
    assert [step for step, _ in checkpoints] == [6]
    assert all((run / name).read_bytes() == before[name] for name in start)
    record = json.loads((run / "run.json").read_text())
    assert record.items() >= before["record"].items() and {"finished_utc", "remade_utc"} <= record.keys()


def test_a_folder_that_cannot_come_back_costs_the_outputs_not_the_training(tmp_path, monkeypatch, capsys) -> None:
    def replace():
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("a file where the folder was")

    at_step(monkeypatch, 6, replace)
    assert train.main(words(tmp_path / "run", **PLAIN)) == STOPPED
    told = capsys.readouterr()
    assert "step 14 is done, but not all could be written" in told.err and "scene (1 time)" in told.err
    assert told.out.count("could not be written") < 10  # once a kind, not once a step


def test_a_run_that_a_signal_ends_on_a_full_disk_says_so(tmp_path, monkeypatch, capsys) -> None:
    def full(*args, **options):
        raise OSError(28, os.strerror(28))

    def end():
        monkeypatch.setattr(utils.tree_file, "save_file", full)
        os.kill(os.getpid(), 15)

    at_step(monkeypatch, 6, end)
    assert train.main(words(tmp_path / "run", **PLAIN)) == STOPPED
    assert "received SIGTERM, and the checkpoint cannot be written" in capsys.readouterr().err
