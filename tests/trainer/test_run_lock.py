# SPDX-License-Identifier: Apache-2.0
import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from trainer.run_lock import FolderInUse, RunLock

HOLD = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from trainer.run_lock import RunLock; lock = RunLock(Path(sys.argv[2])); print('held', flush=True); sys.stdin.read()"


def test_a_second_holder_is_told_who_has_it(tmp_path) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(
        FolderInUse, match=rf"in use by process {os.getpid()} on {socket.gethostname()} since 2.*--workspace NAME"
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
