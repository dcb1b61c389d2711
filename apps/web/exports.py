# SPDX-License-Identifier: Apache-2.0
"""Exports, each made in a process of its own: the server answers in the meantime, and no export ends with a page."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from apps.web.console import TAIL_BYTES, last_sentence
from apps.web.export_process import NAME
from apps.web.outputs import SCENE, OutputFile, newest
from trainer.disk_use import EXPORTS
from utils.file_formats import FILE_FORMATS, SCENES
from utils.general_utils import remove_parts

ROOT = Path(__file__).resolve().parents[2]
EXPORT = Path(__file__).with_name("export_process.py")
UP, DOWN = "y", "-y"
FLIPPED = {UP: "", DOWN: "_flipped"}
"""Axis that points up in an export -> what its name has for that."""
PROGRESS = re.compile(r"^(\d{1,3}) % (.+)$", re.MULTILINE)
"""A line of export/progress.py."""


@dataclass(frozen=True)
class Progress:
    """An export that is queued or made. done: 0..1; part: what is done now, or that it is queued."""

    done: float
    part: str


class Export:
    """A format of a saved scene, with its axis `up`. Remembers its process, once there is one, and what that prints."""

    def __init__(self, folder: Path, format: str, up: str, scene: OutputFile) -> None:
        self.folder, self.format, self.up, self.scene = folder, format, up, scene
        self.is_cancelled = False
        self._console: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process. Raises OSError, and ValueError where the folder of exports is a link to another."""
        out = self._out
        if out.parent.is_symlink():
            raise ValueError(f"{out.parent} is a link to another folder; remove it.")
        out.parent.mkdir(exist_ok=True)
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 (it stays open while the process writes)
        words = [str(self.folder.resolve()), self.format, str(out.resolve()), str(self.scene.step), self.up]
        self._process = subprocess.Popen(
            [sys.executable, str(EXPORT), *words],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    @property
    def _out(self) -> Path:
        return export_path(self.folder, self.format, self.up, self.scene)

    @property
    def is_started(self) -> bool:
        """Whether it has a process, and is not queued any more."""
        return self._process is not None

    @property
    def progress(self) -> Progress:
        """How far it is, by the last part that it printed."""
        if not self.is_started:
            return Progress(0.0, "queued")
        lines = PROGRESS.findall(self._printed())
        return Progress(min(int(lines[-1][0]), 100) / 100, lines[-1][1]) if lines else Progress(0.0, "starting")

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self._process is not None and self._process.poll() is not None

    @property
    def problem(self) -> str:
        """Why an export that is over failed, in a sentence; empty where it did not."""
        status = None if self._process is None else self._process.returncode
        if not status:
            return ""
        if status < 0:
            return f"The {self.format} export was ended by signal {-status}; perhaps there was too little memory."
        sentence = last_sentence(self._printed(), NAME)
        return sentence or f"The {self.format} export ended with status {status} and printed nothing."

    def settle(self) -> None:
        """Dates a file that has been made no earlier than its scene, which the clock of another machine may have dated.

        It would never be ready otherwise.
        """
        with contextlib.suppress(OSError):
            if self._out.stat().st_mtime_ns < self.scene.written_ns:
                os.utime(self._out, ns=(self.scene.written_ns,) * 2)

    def cancel(self) -> None:
        """Has the process end, and does not wait until it has."""
        self.is_cancelled = True
        self._kill()

    def end(self) -> None:
        """Ends the process, where it has not ended, and waits for that; the file is there whole or not at all."""
        if self._process is not None:
            self._kill()
            self._process.wait()
            remove_parts(self._out)

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _printed(self) -> str:
        if self._console is None:
            return ""
        size = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")


class Exports:
    """One is made at a time, for each takes all cores; the others are queued. Remembers why the last ones failed."""

    def __init__(self) -> None:
        self._queue: list[Export] = []
        self._problems: dict[tuple[Path, str, str], str] = {}

    def request(self, folder: Path, format: str, up: str = UP) -> None:
        """Makes an export of the newest scene, unless it is there or on its way."""
        scene = newest(folder, SCENE)
        self._problems.pop((folder, format, up), None)
        if scene is None:
            self._problems[folder, format, up] = "No scene is saved yet; one is when half of the steps are done."
        elif ready_export(folder, format, up) is None and self._found(folder, format, up) is None:
            self._queue.append(Export(folder, format, up, scene))
            self.tick()

    def progress(self, folder: Path, format: str, up: str = UP) -> Progress | None:
        """How far an export is; None where none is queued or made."""
        export = self._found(folder, format, up)
        return None if export is None else export.progress

    def problem(self, folder: Path, format: str, up: str = UP) -> str:
        """Why the last request failed; empty where it did not."""
        return self._problems.get((folder, format, up), "")

    def cancel(self, folder: Path, format: str, up: str = UP) -> None:
        """Ends an export that is queued or made, whoever has requested it; the next one starts with a tick."""
        export = self._found(folder, format, up)
        if export is None or export.is_over:
            return
        export.cancel()
        if not export.is_started:
            self._queue.remove(export)
        self._problems[folder, format, up] = f"The {format} export was cancelled; its tile makes it again."

    def tick(self) -> None:
        """Takes note of an export that is over, and starts the next."""
        while self._queue:
            export = self._queue[0]
            if export.is_over:
                self._close(export.problem)
                continue
            if export.is_started:
                return
            try:
                export.start()
            except (ValueError, OSError) as error:
                self._close(str(error))
            else:
                return

    def drop(self, folder: Path | None = None) -> None:
        """Ends and forgets the exports of a run; None: all."""
        for export in [export for export in self._queue if folder in (None, export.folder)]:
            export.end()
            self._queue.remove(export)

    def _close(self, problem: str) -> None:
        export = self._queue.pop(0)
        export.end()
        if not problem:
            export.settle()
        if export.is_cancelled:
            if not problem:  # it was too late
                self._problems.pop((export.folder, export.format, export.up), None)
        elif problem:
            self._problems[export.folder, export.format, export.up] = problem
        elif newest(export.folder, SCENE) not in (None, export.scene):  # the run has saved a newer one in the meantime
            self.request(export.folder, export.format, export.up)

    def _found(self, folder: Path, format: str, up: str) -> Export | None:
        wanted = (one for one in self._queue if not one.is_cancelled)
        return next((one for one in wanted if (one.folder, one.format, one.up) == (folder, format, up)), None)


def export_path(folder: Path, format: str, up: str, scene: OutputFile) -> Path:
    """Where the export of a run's scene goes."""
    return folder / EXPORTS / f"{folder.name}_{scene.step}{FLIPPED[up]}{FILE_FORMATS[format].suffix}"


def ready_export(folder: Path, format: str, up: str = UP) -> Path | None:
    """The export of the newest scene, where it has been made."""
    scene = newest(folder, SCENE)
    if scene is None or format not in SCENES or up not in FLIPPED:
        return None
    out = export_path(folder, format, up, scene)
    try:
        is_new = out.stat().st_mtime_ns >= scene.written_ns
    except OSError:
        return None
    return out if is_new and out.is_file() and not out.is_symlink() else None
