# SPDX-License-Identifier: Apache-2.0
"""Signals that ask a run to end: it finishes its step first. A second SIGINT (Ctrl-C) ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Remembers the name of the first signal that came while the `with` block ran, None before.

    Only the main thread of a program can take signals; elsewhere the block changes nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether the run is asked to end."""
        return self.received is not None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
