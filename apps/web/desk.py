# SPDX-License-Identifier: Apache-2.0
"""Who runs and who waits: the server's state, the same for every tab and visitor."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from apps.web.job import Job
from arguments import Config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
STOP_SECONDS = 20.0
"""What a run gets to write its checkpoint when the page's server ends."""


class Busy(ValueError):
    """A run that cannot be begun now; the message is one sentence."""


class Desk:
    """One run at a time, for it takes the whole machine, and a line of one. Remembers both, and those looked at."""

    def __init__(self, output: Path) -> None:
        """The current run is the newest of the folder, until one is begun here."""
        self.output = output
        self.waiting: Job | None = None
        self._known: dict[str, Job] = {}
        found = filter(None, map(self.find, self.names()))
        self.current: Job | None = next((job for job in found if not job.unreadable), None)

    def submit(self, config: Config) -> Job:
        """A new run: it begins, or waits where another runs. Raises Busy where one waits already, and OSError."""
        self._refuse_a_third()
        return self._begin_or_wait(Job.create(config, self.output))

    def go_on(self, job: Job) -> Job:
        """A run that ended before its last step goes on, or waits. Raises Busy."""
        if job is self.waiting or not job.can_go_on:
            raise Busy(f"{job.name} is {job.state.value}; only a run that has ended before its last step can go on.")
        self._refuse_a_third()
        return self._begin_or_wait(job)

    def leave(self) -> None:
        """The run in line gives its place up; the folder of one that never began is removed."""
        job, self.waiting = self.waiting, None
        if job is None:
            return
        job.waits = False
        with contextlib.suppress(OSError):
            if {path.name for path in job.folder.iterdir()} <= {"config.yaml"}:
                (job.folder / "config.yaml").unlink(missing_ok=True)
                job.folder.rmdir()
                self._known.pop(job.name, None)

    def tick(self) -> None:
        """Begins the run in line once the other has ended; called every now and then."""
        if self.waiting is not None and not self._is_taken():
            job, self.waiting = self.waiting, None
            self._begin_or_wait(job)

    def find(self, name: str) -> Job | None:
        """The run of that name directly below the output folder; None for any other name or path."""
        folder = self.output / name if NAME.fullmatch(name) else None
        if folder is None or not _is_run(folder):
            return None
        known = self._known.get(name)
        if known is None or known.is_outdated:
            self._known[name] = known = Job(folder)
        return known

    def names(self) -> list[str]:
        """Names of the runs in the output folder, the newest first."""
        found = []
        with contextlib.suppress(OSError):
            for config in self.output.glob("*/config.yaml"):
                if NAME.fullmatch(config.parent.name) and _is_run(config.parent):
                    found.append((config.stat().st_mtime, config.parent.name))
        return [name for _, name in sorted(found, reverse=True)]

    def close(self) -> None:
        """The server ends: so does the run, with a checkpoint where there is time for one."""
        self.leave()
        if self.current is not None and self.current.is_alive:
            self.current.stop()
            self.current.wait(STOP_SECONDS)

    def _is_taken(self) -> bool:
        return self.current is not None and self.current.is_alive

    def _refuse_a_third(self) -> None:
        if self.waiting is not None:
            raise Busy(
                f"One run is going on and {self.waiting.name} waits in line, which has one place: try again when that "
                "one has begun."
            )

    def _begin_or_wait(self, job: Job) -> Job:
        self._known[job.name] = job
        if self._is_taken():
            job.waits, self.waiting = True, job
        else:
            self.current = job
            job.start()
        return job


def _is_run(folder: Path) -> bool:
    """Whether a folder holds a config.yaml; links could lead out of the output folder."""
    config = folder / "config.yaml"
    return config.is_file() and not config.is_symlink() and not folder.is_symlink()
