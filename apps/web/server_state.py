# SPDX-License-Identifier: Apache-2.0
"""The server's state, the same for every tab and visitor: the current run, the queued one, and those found on disk."""

import contextlib
import itertools
import shutil
from pathlib import Path

from apps.web.exports import Exports
from apps.web.job import CONSOLE, Job, State
from apps.web.sizes import Sizes
from arguments import Config
from trainer.disk_use import remove
from trainer.run_lock import NAME as LOCK
from trainer.run_lock import FolderInUse

MAX_NAME_BYTES = 255
"""Of a folder's name, on every file system."""
STOP_SECONDS = 20.0
"""For a run to write its checkpoint when the page's server ends."""


class CannotStart(ValueError):
    """A run that cannot be started now; the message is one sentence."""


class CannotDelete(ValueError):
    """A run that cannot be deleted now; the message is one sentence."""


class ServerState:
    """One run at a time, for it takes the whole machine, and a queue of one. Holds both, and all found runs.

    A run of the output folder that another program has started counts too: the command line, or an earlier server.
    """

    def __init__(self, output: Path) -> None:
        """The current run is the newest of the folder, until one is started here."""
        self.output = output
        self.queued: Job | None = None
        self.exports, self.sizes = Exports(), Sizes()
        self._known: dict[str, Job] = {}
        self.current: Job | None = self._newest()

    @property
    def running(self) -> Job | None:
        """The run that has the machine: this server's, or one in the output folder that another program has started."""
        if self.current is not None and self.current.is_alive:
            return self.current
        return next((job for job in self.jobs() if job.state is State.ELSEWHERE), None)

    def submit(self, config: Config) -> Job:
        """Starts a new run, or queues it where another runs. Raises CannotStart where that is full, and OSError."""
        self._check_queue()
        return self._start_or_queue(Job.create(config, self.output))

    def resume(self, job: Job) -> Job:
        """Resumes a run that ended before its last step, or queues it. Raises CannotStart."""
        if job is self.queued or not job.can_resume:
            raise CannotStart(f"{job.name} is {job.state.value}; only a run with steps left can resume.")
        self._check_queue()
        return self._start_or_queue(job)

    def cancel_queued(self) -> None:
        """Empties the queue; the folder of a run that never started is removed."""
        job, self.queued = self.queued, None
        if job is not None:
            job.is_queued = False
            self._remove_unused(job)

    def delete(self, job: Job) -> int:
        """Removes a run from the disk; returns the bytes that it freed. Raises CannotDelete."""
        if job.is_alive or job.state in (State.ELSEWHERE, State.QUEUED):
            raise CannotDelete(f"{job.name} is {job.state.value}; stop it before it is deleted.")
        if job.is_gone:
            raise CannotDelete(f"{job.name} has been deleted already.")
        self.exports.drop(job.folder)
        try:
            freed = remove(job.folder)
        except (FolderInUse, OSError) as error:
            raise CannotDelete(f"{job.name} could not be deleted ({error}).") from error
        self._known.pop(job.name, None)
        if job is self.current:
            self.current = self._newest()
        return freed

    def _remove_unused(self, job: Job) -> None:
        """Removes the folder of a run that has made nothing."""
        with contextlib.suppress(OSError):
            if {path.name for path in job.folder.iterdir()} <= {"config.yaml", CONSOLE, LOCK}:
                shutil.rmtree(job.folder)
                self._known.pop(job.name, None)

    def tick(self) -> None:
        """Starts the queued run once the other has ended, and the next export; called every TICK_SECONDS."""
        self.exports.tick()
        if self.current is not None and self.current.is_outdated:
            self.current = self.find(self.current.name) or self.current
        if self.current is not None and self.current.was_refused and self.current.outcome():  # which is kept
            self._remove_unused(self.current)
        if self.queued is not None and self.running is None:
            job, self.queued = self.queued, None
            self._start_or_queue(job)

    def find(self, name: str) -> Job | None:
        """The run of that name directly below the output folder; None for any other name or path."""
        folder = self.output / name if _is_name(name) else None
        if folder is None or not _is_run(folder):
            return None
        known = self._known.get(name)
        if known is None or known.is_outdated:
            self._known[name] = known = Job(folder)
        return known

    def jobs(self, most: int | None = None) -> list[Job]:
        """The runs in the output folder, the newest first, at most so many; without those that saved nothing."""
        found = []
        with contextlib.suppress(OSError):
            for config in self.output.glob("*/config.yaml"):
                if _is_name(config.parent.name) and _is_run(config.parent):
                    found.append((config.stat().st_mtime, config.parent.name))
        jobs = filter(None, (self.find(name) for _, name in sorted(found, reverse=True)))
        return list(itertools.islice((job for job in jobs if job.is_listed), most))

    def _newest(self) -> Job | None:
        return next((job for job in self.jobs() if not job.unreadable), None)

    def close(self) -> None:
        """Stops the run when the server ends, with a checkpoint where there is time for one."""
        if self.current is not None:
            self.current.stop()
        self.cancel_queued()
        self.exports.drop()
        if self.current is not None:
            self.current.wait(STOP_SECONDS)

    def _check_queue(self) -> None:
        if self.queued is not None:
            raise CannotStart(
                f"A run is in progress and {self.queued.name} is queued: the queue is full. Try again after its start."
            )

    def _start_or_queue(self, job: Job) -> Job:
        self._known[job.name] = job
        if self.running is not None:
            job.is_queued, self.queued = True, job
        else:
            self.current = job
            job.start()
        return job


def _is_name(name: str) -> bool:
    """Whether it can be the name of a run: one folder's, which is not hidden and can be shown in one line."""
    return name.isprintable() and "/" not in name and name[:1] not in ("", ".") and len(name.encode()) <= MAX_NAME_BYTES


def _is_run(folder: Path) -> bool:
    """Whether a folder holds a config.yaml; links could lead out of the output folder."""
    config = folder / "config.yaml"
    return config.is_file() and not config.is_symlink() and not folder.is_symlink()
