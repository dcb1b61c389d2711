# SPDX-License-Identifier: Apache-2.0
"""Signals that by default end a process: a run finishes its step first. A second SIGINT (Ctrl-C) ends it at once.

docs/running.md has the table. SIGPIPE and SIGXFSZ are ignored by Python, so that the write fails with an OSError;
SIGKILL cannot be handled; signals that report a fault of the program itself (SIGSEGV, SIGABRT, ...) keep their default.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

NAMES = (
    "SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGQUIT", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO",
    "SIGPWR", "SIGXCPU", "SIGSTKFLT",
)  # fmt: skip
REAL_TIME = range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()
SIGNALS: tuple[int, ...] = (*(getattr(signal, name) for name in NAMES if hasattr(signal, name)), *REAL_TIME)
"""All that a run takes as "stop after this step"."""

Handler = Callable[[int, FrameType | None], Any]


class StopSignals:
    """Remembers the name of the first signal that came between `take` and `release`, None before.

    Only the main thread of a program can take signals; elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def take(self) -> None:
        """From here on signals are remembered."""
        self._before = _handle_all(self._take)

    def release(self) -> None:
        """The handlers from before `take` are back. May be called twice."""
        restore(self._before)
        self._before = {}

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __call__(self) -> bool:
        """Whether the run is asked to end."""
        return self.received is not None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self.received = self.received or name_of(number)


def exit_on_signals(status_of: Mapping[int, int], advice: str = "") -> dict[int, Any]:
    """For the start-up of a program: a signal in `status_of` ends it with one line and that exit status.

    advice: the end of that line. The process exits in the handler: an exception might be caught inside the import that
    it interrupts. Returns the earlier handlers, for `restore`.
    """

    def end(number: int, frame: FrameType | None) -> None:
        line = f"Received {name_of(number)} during start-up{advice}"
        if os.environ.get("RANK", "0") == "0":
            with suppress(Exception):
                sys.stdout.flush()
            with suppress(OSError):
                os.write(2, f"{os.path.basename(sys.argv[0])}: {line}\n".encode())
        os._exit(status_of[number])

    return _handle_all(end, tuple(status_of))


def ignore_signals() -> None:
    """For the last moments of a program, whose exit status is decided."""
    _handle_all(signal.SIG_IGN)


def restore(handlers: Mapping[int, Any]) -> None:
    """Sets handlers that were there before."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def name_of(number: int) -> str:
    """Such as SIGTERM or SIGRTMIN+3."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _handle_all(handler: Handler | signal.Handlers, among: Sequence[int] = SIGNALS) -> dict[int, Any]:
    """Sets the signals' handler; returns the earlier ones. One that is ignored stays so (nohup), but for SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    kept = (signal.SIG_IGN, None)  # None: set outside of Python
    numbers = [number for number in among if number == signal.SIGINT or signal.getsignal(number) not in kept]
    return {number: signal.signal(number, handler) for number in numbers}
