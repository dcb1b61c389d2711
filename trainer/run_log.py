# SPDX-License-Identifier: Apache-2.0
"""What a run reports: progress bar, TensorBoard, one JSON line a step, and the time of each phase."""

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from trainer.run_lock import is_same_file

logger = logging.getLogger(__name__)


class PhaseTimer:
    """Wall-clock milliseconds by phase name of one step; phases of the same name add up.

    On a GPU the work is asynchronous: a phase then shows the time to launch, not to finish, its kernels.
    """

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[phase] = self.ms.get(phase, 0.0) + 1e3 * (time.perf_counter() - start)


BOARD_INTERVAL = 10  # iterations; a scalar is seen as a curve


class RunLog:
    """Progress bar, `log.jsonl`, and at times TensorBoard scalars (of a list, its mean) of one run folder.

    Remembers: the exponential moving average of the loss that the bar shows, and the position in log.jsonl, by which a
    continued run cuts off what was logged after its checkpoint. The bar is drawn from `begin` to `close`.
    """

    def __init__(self, folder: Path, iterations: int, quiet: bool = False) -> None:
        self._iterations, self._quiet = iterations, quiet
        self._lines = LineFile(folder / "log.jsonl")
        self._board = EventFile(folder)
        self._bar: tqdm[Any] | None = None
        self._opened = ExitStack()
        self._ema_loss: float | None = None
        self._iteration = 0

    def begin(self) -> None:
        """Draws the progress bar; warnings are from here on printed above it."""
        self._opened.enter_context(logging_redirect_tqdm())
        options = {"desc": "Training", "disable": self._quiet, "smoothing": 0.05}
        self._bar = tqdm(total=self._iterations, initial=self._iteration, **options)

    def step(self, record: dict[str, Any]) -> None:
        """Logs one step: numbers, lists and mappings by name, among them `iteration`, `loss` and `points`.

        Raises OSError when it cannot be written; the line is kept and goes out with a later one.
        """
        self._iteration = record["iteration"]
        if record["loss"] is not None:
            old = record["loss"] if self._ema_loss is None else self._ema_loss
            self._ema_loss = 0.6 * old + 0.4 * record["loss"]
        if self._bar is not None:
            self._bar.update()
            if self._ema_loss is not None:
                self._bar.set_postfix_str(f"loss={self._ema_loss:.4g}, points={record['points']}", refresh=False)
        self._lines.add(json.dumps(record) + "\n")
        if record["iteration"] % BOARD_INTERVAL == 0 or record["iteration"] == self._iterations:
            self._board.add_scalars(record["iteration"], _scalars(record))

    def event(self, name: str, **facts: Any) -> None:
        """Logs something that is no step, as {"event": name, ...}; `read_steps` passes over it. Raises OSError."""
        self._lines.add(json.dumps({"event": name, **facts}) + "\n")

    def flush(self) -> None:
        """Every line is on disk once this returns. Raises OSError."""
        self._lines.synced()

    def note(self, message: str) -> None:
        """Prints a line without tearing the progress bar."""
        tqdm.write(message)

    def state_dict(self) -> dict[str, Any]:
        """Where the log stands. log.jsonl is on disk up to there once this returns. Raises OSError."""
        return {"iteration": self._iteration, "bytes": self._lines.synced(), "ema_loss": self._ema_loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back or on to where `state_dict` was taken: later lines are cut off, later scalars are hidden."""
        self._lines.cut(state["bytes"])
        self._iteration, self._ema_loss = state["iteration"], state["ema_loss"]
        if self._bar is not None:
            self._bar.n = self._bar.last_print_n = self._iteration
            self._bar.refresh()
        self._board.hide_from(self._iteration + 1)

    def close(self) -> None:
        """May be called twice."""
        if self._bar is not None:
            self._bar.close()
        self._opened.close()
        self._board.close()
        self._lines.close()


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The steps of a log.jsonl, one mapping each; events and a line that was cut through are passed over.

    Raises OSError.
    """
    steps = []
    with path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict) and "event" not in record:
                    steps.append(record)
    return steps


class LineFile:
    """A file that lines are added to. A line that cannot be written is kept, and goes out before the next one.

    When the file was removed, moved or replaced, with its folder perhaps, a new one is begun.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._waiting = path, b""
        self._file = path.open("ab", buffering=0)

    def add(self, line: str) -> None:
        """Raises OSError, with no half line left behind where that can be helped."""
        self._waiting += line.encode("utf-8")
        if not is_same_file(self._file.fileno(), self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("ab", buffering=0)
            self._file.close()
            self._file = file
        before = os.fstat(self._file.fileno()).st_size
        written = 0
        try:
            written = self._file.write(self._waiting) or 0
            if written < len(self._waiting):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            if written:
                self._file.truncate(before)
            raise
        self._waiting = b""

    def synced(self) -> int:
        """Bytes of the file, all of them on disk. Raises OSError when lines wait to be written."""
        if self._waiting:
            self.add("")
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Forgets what was added after the file had `size` bytes; a shorter file, of another folder, is left alone."""
        self._waiting = b""
        if os.fstat(self._file.fileno()).st_size > size:
            self._file.truncate(size)

    def close(self) -> None:
        """May be called twice."""
        self._file.close()


class EventFile:
    """A TensorBoard file of one process, begun with its first event; begun again after a failure.

    Without the package tensorboard nothing is written, and that is reported once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            logger.warning("no TensorBoard events are written (%s); pip install tensorboard", error)
            self._is_available = False
        else:
            self._is_available = True
            self._events, self._summaries, self._writer = event_pb2, summary_pb2, RecordWriter

    def add_scalars(self, step: int, scalars: Iterable[tuple[str, float]]) -> None:
        """One event with the scalars by name. Raises OSError."""
        if self._is_available:
            values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in scalars]
            self._add(self._events.Event(step=step, summary=self._summaries.Summary(value=values)))

    def hide_from(self, step: int) -> None:
        """Scalars of this step and of later ones that were written before are not shown. Raises OSError."""
        if self._is_available:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._add(self._events.Event(step=step, session_log=start))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        if self._file is not None and not is_same_file(self._file.fileno(), Path(self._file.name)):
            self.close()
        try:
            if self._file is None:
                self._file = self._begin(event.wall_time)
            self._writer(self._file).write(event.SerializeToString())
            self._file.flush()
        except OSError:
            self.close()
            raise

    def _begin(self, now: float) -> IO[bytes]:
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.perf_counter_ns()}"
        file = (self._folder / name).open("xb")
        first = self._events.Event(wall_time=now, file_version="brain.Event:2")
        self._writer(file).write(first.SerializeToString())
        return file

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            with suppress(OSError):  # its last bytes did not fit
                self._file.close()
            self._file = None


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list) and all(isinstance(v, dict) for v in value):  # one mapping a view
            together = {key: [v[key] for v in value] for key in (value[0] if value else {})}
            yield from _scalars(together, f"{prefix}{name}/")
        elif isinstance(value, list):
            numbers = [v for x in value for v in (x if isinstance(x, list) else [x]) if v is not None]
            if numbers and all(isinstance(v, int | float) for v in numbers):
                yield f"{prefix}{name}", sum(numbers) / len(numbers)
        elif isinstance(value, (int, float)) and name != "iteration":
            yield f"{prefix}{name}", float(value)
