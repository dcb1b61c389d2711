# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for what must come: far longer than any loaded machine takes, so that only a hang ends it."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 600.0


def until(done: Callable[[], Any], complaint: str = "it did not come to that", poll_s: float = 0.01) -> Any:
    """Asks done() again and again until it is true, and returns what it gave; fails after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while not (given := done()):
        assert time.monotonic() < end, complaint
        time.sleep(poll_s)
    return given


class Clock:
    """Stands for the module `time` where a time limit is tested: it goes on only when somebody sleeps by it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
