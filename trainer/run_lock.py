# SPDX-License-Identifier: Apache-2.0
"""One run a folder: a lock that the kernel takes away when its process ends, however it ends."""

import errno
import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

NAME = "run.lock"
MAX_BYTES = 1 << 12
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
FULL = (errno.ENOSPC, errno.EDQUOT)


class FolderInUse(ValueError):
    """Another process is writing in the folder; the message says which."""


class FolderLost(RuntimeError):
    """The folder of a run that is at work belongs to another run now; the message says what to do."""


class RunLock:
    """Holds flock() on `run.lock` until `release` or the end of the process.

    The file says who holds it. A lock on a removed file locks nothing: `in_place` tells whether the locked file is
    still the one in the folder. On NFS flock() needs a lock service; without one `held` is False and nothing stops a
    second run.
    """

    def __init__(self, folder: Path, on_full_disk: bool = False) -> None:
        """Raises FolderInUse, and OSError when the file cannot be made or written.

        on_full_disk: the lock is taken too where no space is left to say who holds it, as for what frees space.
        """
        self.folder, self._on_full_disk = folder, on_full_disk
        self._is_new = not (folder / NAME).exists()
        self._file: IO[str] = self._open()
        while not self.in_place():  # removed between being opened and being locked
            self._file.close()
            self._file = self._open()
        self._file.seek(0)
        self._before = self._file.read(MAX_BYTES)
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        self._write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")

    def in_place(self) -> bool:
        """Whether the folder's run.lock is the file that is locked: not removed, moved or replaced."""
        return is_same_file(self._file.fileno(), self.folder / NAME)

    def release(self) -> None:
        """May be called twice."""
        self._file.close()

    def withdraw(self) -> None:
        """Releases the lock and leaves the folder as it was before; for a run that was refused. Raises OSError."""
        if self.in_place():
            if self._is_new:
                (self.folder / NAME).unlink()
            else:
                self._write(self._before)
        self._file.close()

    @staticmethod
    def refuse_if_held(folder: Path) -> None:
        """Raises FolderInUse when another process holds the lock; writes nothing."""
        try:
            with (folder / NAME).open(encoding="utf-8", errors="replace") as file:
                _lock(file, folder)
        except OSError:
            return  # there is no such file, or it cannot be read: a start-up will say so

    def _open(self) -> IO[str]:
        """The file, opened and locked; sets `held`."""
        descriptor = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
        file: IO[str] = os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")
        self.held = _lock(file, self.folder)
        return file

    def _write(self, text: str) -> None:
        """Replaces what the file says. It is not emptied first: a full disk might have no space for it afterwards."""
        descriptor = self._file.fileno()
        try:
            os.ftruncate(descriptor, os.pwrite(descriptor, text.encode(), 0))
        except OSError as error:
            if not self._on_full_disk or error.errno not in FULL:
                raise
            os.ftruncate(descriptor, 0)  # better nobody than an earlier holder


def _lock(file: IO[str], folder: Path) -> bool:
    """Locks an open run.lock; False where the file system has no locks. Raises FolderInUse and closes the file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        file.seek(0)
        holder = file.read(200).strip() or "another process"
        file.close()
        raise FolderInUse(
            f"{folder} is in use by {holder}; wait for it, stop it, or write elsewhere with --model_path FOLDER"
        ) from None
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
