# SPDX-License-Identifier: Apache-2.0
"""One run of train.py in a process, and a session, of its own: started, watched, stopped, resumed."""

import contextlib
import dataclasses
import enum
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from apps.web.console import TAIL_BYTES, last_sentence
from apps.web.drafts import config_of
from apps.web.outputs import SCENE, OutputFile, newest
from apps.web.progress import LogReader, Progress
from arguments import Config
from arguments.exit_codes import FINISHED, INTERRUPTED, KILLED, REFUSED
from arguments.load import to_yaml
from arguments.yaml_file import read_yaml
from toy.prompt_words import prompt_notices
from trainer.checkpoints import numbered
from trainer.run_lock import NAME as LOCK
from trainer.run_records import is_count, read_object, read_regular
from utils.general_utils import write_text_atomically

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "train.py"
CONSOLE = "console.txt"
"""What the process prints, in the run folder."""
TITLE = "title.txt"
"""The name that somebody has given the run on the page, in the run folder."""
MAX_NAME, MAX_TITLE = 40, 100
MAX_PROMPT = 2000
"""Characters of a prompt that are shown."""


class State(enum.Enum):
    """Where a run stands; the value is what people read."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping after this step"
    STOPPED = "stopped"
    UNFINISHED = "not finished"
    ELSEWHERE = "running, started by another program"
    FINISHED = "finished"
    FAILED = "failed"
    UNREADABLE = "unreadable"


ALIVE = (State.STARTING, State.RUNNING, State.STOPPING)
MOVING = (*ALIVE, State.ELSEWHERE)


class Job:
    """A run folder and, while this program runs it, its process.

    Remembers: the process, whether it was asked to stop, whether the run is queued, what was read of its log, and how
    many bytes processes before it have printed.
    """

    def __init__(self, folder: Path) -> None:
        """A folder with a config.yaml; one that cannot be read makes an UNREADABLE run, which can only be shown."""
        self.folder, self.name = folder, folder.name
        tree, problems = read_yaml(str(folder / "config.yaml"))
        prompt, steps = (
            _inside(tree, *key) for key in (("GuidanceParams", "text"), ("OptimizationParams", "iterations"))
        )
        self.title = _title(folder)
        self.prompt = prompt[:MAX_PROMPT] if isinstance(prompt, str) and prompt.strip() else self.name
        self.unreadable = ""
        if not is_count(steps, 1):
            missing = f"{folder}/config.yaml does not say how many steps the run has"
            self.unreadable = f"{problems[0] if problems else missing}; delete the run or repair the file."
        self.log = LogReader(folder / "log.jsonl", steps if is_count(steps, 1) else 1)
        self.is_queued, self._asked_to_stop = False, False
        self._broken = self._reason = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._first_step = self._printed_before = 0
        self._written, self._is_writing = _written(folder), False
        self.log.read()

    @classmethod
    def create(cls, config: Config, output: Path) -> Self:
        """A new folder below `output`, named after the prompt, with the settings in it. Raises OSError."""
        folder = new_folder(output, config.guidance.text)
        model = dataclasses.replace(config.model, model_path=str(folder), workspace=folder.name)
        try:
            write_text_atomically(folder / "config.yaml", to_yaml(dataclasses.replace(config, model=model)))
        except OSError:  # a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder)

    @property
    def state(self) -> State:
        """Where the run stands now."""
        if self.unreadable:
            return State.UNREADABLE
        if self.is_queued:
            return State.QUEUED
        if self._broken:
            return State.FAILED
        if self._process is None:
            return self._state_of_the_folder()
        status = self._process.poll()
        if status is None:
            if self._asked_to_stop:
                return State.STOPPING
            return State.RUNNING if self.log.step > self._first_step else State.STARTING
        if status == FINISHED:
            return State.FINISHED
        ended_by_us = self._asked_to_stop and (status in (INTERRUPTED, KILLED) or status < 0)
        if ended_by_us or status == INTERRUPTED:
            return State.STOPPED
        return State.UNFINISHED if self._has_saved else State.FAILED

    @property
    def label(self) -> str:
        """What people call the run: the name that it was given, else its prompt."""
        return self.title or self.prompt

    def address(self, file: str, shown: OutputFile | None = None) -> str:
        """Where the page has a file of the run, whatever the folder's name is made of.

        shown: what is found there now. When that is written again, by another run too, the address is another one, or
        browsers would show what they have kept.
        """
        at = f"/runs/{quote(self.name, safe='')}/{file}"
        return at if shown is None else f"{at}?v={shown.step}-{shown.written_ns}"

    @property
    def is_listed(self) -> bool:
        """Whether it is a run to show: one that is queued is none yet, one that ended early may have saved nothing."""
        state = self.state
        return state not in (State.QUEUED, State.FAILED) and (state is not State.STOPPED or self._has_saved)

    @property
    def is_gone(self) -> bool:
        """Whether its folder has been deleted, by another visitor or by hand."""
        return not self.folder.is_dir()

    @property
    def was_refused(self) -> bool:
        """Whether train.py refused to start it."""
        return self._process is not None and self._process.poll() == REFUSED

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self.state in ALIVE

    @property
    def can_resume(self) -> bool:
        """Whether steps are left and no process makes them."""
        return self.state in (State.STOPPED, State.UNFINISHED)

    @property
    def is_outdated(self) -> bool:
        """Whether another program has started a run in the folder since; to be asked often while a process runs."""
        if self._is_writing and not self.is_queued:  # its own process has written the settings, which ends now perhaps
            self._is_writing = self._process is not None and self._process.poll() is None
            self._written = _written(self.folder)
        return not self.is_queued and _written(self.folder) != self._written

    def start(self) -> None:
        """Starts the run, or resumes it from its newest whole checkpoint; where that is not possible, it has failed."""
        self.log.reset()
        self.log.read()
        self.is_queued, self._asked_to_stop, self._first_step = False, False, self.log.step
        self._broken = self._reason = ""
        try:
            self._process, self._is_writing = self._spawn(), True
        except OSError as error:
            self._broken = f"The run could not be started ({error})."

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.folder / CONSOLE).open("ab") as console:
            self._printed_before = console.tell()
            return subprocess.Popen(
                [sys.executable, str(TRAIN), "--resume", str(self.folder.resolve())],
                env={**os.environ, "TQDM_MININTERVAL": "10", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Asks the run to end after its step, with a checkpoint."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the run at once; it can resume from the last checkpoint."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._asked_to_stop = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended, at most `seconds` from now."""
        try:
            return self._process is None or self._process.wait(seconds) is not None
        except subprocess.TimeoutExpired:
            return False

    def progress(self) -> Progress:
        """How far the run is."""
        return self.log.read()

    def outcome(self) -> str:
        """How the run ended, in a sentence; empty while it runs.

        Of a finished one: what its prior did not understand of the prompt. Of a run that another program has started:
        which process it is, and how to stop it.
        """
        if self.unreadable:
            return self.unreadable
        state = self.state
        if state is State.ELSEWHERE:
            holder = _printed(self.folder / LOCK).strip() or "another program"
            return f"Run by {holder}. Stop it there with Ctrl-C, or with SIGTERM: it ends with a checkpoint."
        if state is State.FINISHED:
            return self._unread
        if state not in (State.STOPPED, State.UNFINISHED, State.FAILED):
            return ""
        reason = self._broken or ("" if state is State.STOPPED else self._why_it_failed())
        if state is not State.FAILED:
            return f"{reason} {self._how_to_resume()}".strip()
        return reason or "The run ended before its first checkpoint: nothing is left of it."

    @functools.cached_property
    def _unread(self) -> str:
        """What the prior did not understand of the prompt, in sentences; empty where it understood all."""
        try:
            sentence = "; ".join(prompt_notices(config_of(self.folder)))
        except ValueError:  # settings, or a model's list of words, that cannot be read
            return ""
        return sentence and f"{sentence[0].upper()}{sentence[1:]}."

    def _why_it_failed(self) -> str:
        """Of the process that ended, in a sentence; empty where this program did not start it."""
        status = None if self._process is None else self._process.returncode
        if status and not self._reason:
            self._reason = self._reason_of(status)
        return self._reason

    def _reason_of(self, status: int) -> str:
        if status < 0:
            name = signal.Signals(-status).name if -status in signal.valid_signals() else str(-status)
            memory = "; perhaps there was too little memory" if -status == signal.SIGKILL else ""
            return f"The run was ended by {name}{memory}."
        sentence = last_sentence(_printed(self.folder / CONSOLE, self._printed_before), "train.py")
        return sentence or f"The run ended with status {status} and printed nothing."

    def _how_to_resume(self) -> str:
        saved = numbered(self.folder)
        if not saved:
            return "It ended before its first checkpoint; Resume starts it again."
        return f"The checkpoint of step {saved[0][0]} is kept; Resume continues from it."

    def _state_of_the_folder(self) -> State:
        """The state of a run that is not this program's."""
        if _is_locked(self.folder / LOCK):
            return State.ELSEWHERE
        try:
            finished = "finished_utc" in read_object(self.folder / "run.json")
        except (OSError, ValueError):
            finished = False
        if finished:
            return State.FINISHED
        return State.UNFINISHED if self._has_saved else State.FAILED

    @property
    def _has_saved(self) -> bool:
        """Whether there is something of the run to continue or to look at."""
        return bool(numbered(self.folder) or newest(self.folder, SCENE))

    def rename(self, title: str) -> None:
        """Gives the run a name of the user's; one that shows nothing takes it away. The folder keeps its own.

        Raises OSError.
        """
        if self.is_gone:
            raise FileNotFoundError(f"{self.name} has been deleted")
        title = _shown(title)
        if title:
            write_text_atomically(self.folder / TITLE, title)
        else:
            (self.folder / TITLE).unlink(missing_ok=True)
        self.title = title


def new_folder(output: Path, prompt: str) -> Path:
    """Makes a new folder directly below `output`, named after a prompt of any kind. Raises OSError."""
    output.mkdir(parents=True, exist_ok=True)
    name = slug(prompt)
    for number in range(1, 10_000):
        folder = output / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{output} has ten thousand runs of {name!r}; delete some")


def slug(prompt: str) -> str:
    """Letters a-z, digits and single hyphens, 1..MAX_NAME of them: safe as a folder's name and in an address."""
    plain = unicodedata.normalize("NFKD", prompt[:1000]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:MAX_NAME].strip("-") or "run"


def _printed(console: Path, since: int = 0) -> str:
    """The end of what a process has printed, from byte `since` on; "" where nothing was."""
    try:
        start = max(since, console.stat().st_size - TAIL_BYTES)
        return read_regular(console, TAIL_BYTES, start).decode("utf-8", "replace")
    except OSError:
        return ""


def _is_locked(lock: Path, proc: Path = Path("/proc")) -> bool:
    """Whether a process has a run.lock, by the kernel's list: trying it might take it from a run that starts.

    The list says device and inode. A file may name another device than its mount, as on btrfs: then the inode decides.
    """
    try:
        status = lock.stat()
        flocks = re.findall(r"FLOCK .* ([0-9a-f]+):([0-9a-f]+):(\d+) ", (proc / "locks").read_text())
        mounts = (proc / "self" / "mountinfo").read_text()
    except OSError:  # not Linux: not known
        return False
    device = os.major(status.st_dev), os.minor(status.st_dev)
    is_mounts = f" {device[0]}:{device[1]} " in mounts
    found = [(int(major, 16), int(minor, 16)) for major, minor, inode in flocks if int(inode) == status.st_ino]
    return device in found or (bool(found) and not is_mounts)


def _title(folder: Path) -> str:
    """The name that the run was given; "" where it was not."""
    try:
        text = read_regular(folder / TITLE, 4 * MAX_TITLE).decode("utf-8", "replace")
    except OSError:
        return ""
    return _shown(text)


def _shown(title: str) -> str:
    """A name in one line; "" where nothing of it is to be seen, as of zero-width spaces."""
    title = " ".join(title.split())[:MAX_TITLE]
    return title if any(char.isprintable() and not char.isspace() for char in title) else ""


def _written(folder: Path) -> float:
    """When the settings were written; 0 where there are none."""
    try:
        return (folder / "config.yaml").stat().st_mtime
    except OSError:
        return 0.0


def _inside(tree: object, group: str, key: str) -> Any:
    """tree[group][key] of a YAML file of any shape; None where there is none."""
    inner = tree.get(group) if isinstance(tree, dict) else None
    return inner.get(key) if isinstance(inner, dict) else None
