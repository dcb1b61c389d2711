# SPDX-License-Identifier: Apache-2.0
"""One run a folder: a lock that the kernel takes away when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

NAME = "run.lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUse(ValueError):
    """Another process is writing in the folder; the message says which."""


class RunLock:
    """Holds flock() on `run.lock` until `release` or the end of the process.

    The file says who holds it; it is never removed, for a lock on a removed file locks nothing. On NFS flock() needs a
    lock service; without one `held` is False and nothing stops a second run.
    """

    def __init__(self, folder: Path) -> None:
        """Raises FolderInUse, and OSError when the file cannot be made."""
        self._file: IO[str] = (folder / NAME).open("a+", encoding="utf-8")
        self.held = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                self.held = False
            else:
                self._file.seek(0)
                holder = self._file.read(200).strip() or "another process"
                self._file.close()
                raise FolderInUse(
                    f"{folder} is in use by {holder}; wait for it, stop it, or write elsewhere with --workspace NAME"
                ) from None
        self._file.truncate(0)
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        self._file.flush()

    def release(self) -> None:
        """May be called twice."""
        self._file.close()
