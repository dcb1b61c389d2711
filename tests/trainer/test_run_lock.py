# SPDX-License-Identifier: Apache-2.0
import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from trainer.disk_use import free, remove
from trainer.run_lock import FolderInUse, RunLock

HOLD = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from trainer.run_lock import RunLock; lock = RunLock(Path(sys.argv[2])); print('held', flush=True); sys.stdin.read()"


def test_a_second_holder_is_told_who_has_it(tmp_path) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(
        FolderInUse, match=rf"in use by process {os.getpid()} on {socket.gethostname()} since 2.*--model_path FOLDER"
    ):
        RunLock(tmp_path)
    first.release(), first.release()
    RunLock(tmp_path).release()


def test_a_killed_process_holds_nothing(tmp_path, request) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(request.config.rootpath), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(FolderInUse, match=f"process {process.pid} "):
        RunLock(tmp_path)
    process.kill()
    process.wait()
    process.stdin.close(), process.stdout.close()
    RunLock(tmp_path).release()


def test_a_file_system_without_locks_is_noticed(tmp_path, monkeypatch) -> None:
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = RunLock(tmp_path)
    assert not lock.held
    lock.release()


@pytest.mark.parametrize("before", ["", "process 1 on host since then\n", None])
def test_a_full_disk_refuses_a_run_and_nothing_that_frees_space(tmp_path, monkeypatch, before) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if before is not None:
        (tmp_path / "run.lock").write_text(before)
    (tmp_path / "scene.ply").write_bytes(b"x" * 1000)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        RunLock(tmp_path)
    assert (tmp_path / "run.lock").read_text() == (before or "")
    lock = RunLock(tmp_path, on_full_disk=True)
    with pytest.raises(FolderInUse, match="in use by another process"):  # not by the one that had it before
        RunLock(tmp_path)
    lock.withdraw()
    assert free(tmp_path) == 0 and remove(tmp_path) >= 1000 and not tmp_path.exists()


def test_a_withdrawn_lock_leaves_the_file_as_it_was(tmp_path) -> None:
    lock = RunLock(tmp_path)
    lock.withdraw()
    assert not (tmp_path / "run.lock").exists()
    for before in ("", "short", "process 12345678 on a host with a long name since 2026-01-01 00:00 UTC\n" * 3):
        (tmp_path / "run.lock").write_text(before)
        lock = RunLock(tmp_path)
        assert (tmp_path / "run.lock").read_text().startswith(f"process {os.getpid()} ")
        assert (tmp_path / "run.lock").read_text().count("\n") == 1
        lock.withdraw()
        assert (tmp_path / "run.lock").read_text() == before
