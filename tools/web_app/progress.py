# SPDX-License-Identifier: Apache-2.0
"""How far a run is, from the log.jsonl that train.py adds a line to at each step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 4 << 20
"""Read at a time; a line has a few kilobytes."""


@dataclass(frozen=True)
class Progress:
    """The step that is done (0: none yet), how many there are, a mean loss, Gaussians, seconds to go; None: unknown."""

    step: int
    steps: int
    loss: float | None
    points: int | None
    seconds_left: float | None


class LogReader:
    """Follows one log.jsonl. Remembers how far it has read, the loss of each step, and how long the steps took."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forgets everything: a process that goes on with a run cuts off the lines after its checkpoint."""
        self.losses: dict[int, float] = {}
        self.step = 0
        self.points: int | None = None
        self._offset, self._half = 0, b""
        self._seconds: list[float] = []

    def read(self) -> Progress:
        """Takes what is new. A log that got shorter is read from its beginning."""
        try:
            if self.path.stat().st_size < self._offset:
                self.begin_anew()
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read(READ_BYTES)
        except OSError:
            content = b""
        self._offset += len(content)
        *lines, self._half = (self._half + content).split(b"\n")
        for line in lines:
            self._take(line)
        return self._progress()

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            step, loss, points = int(record["iteration"]), record["loss"], record["points"]
            seconds = sum(record["phase_ms"].values()) / 1e3
        except (ValueError, KeyError, TypeError, AttributeError):  # cut through by a run that went back
            return
        if step <= self.step:  # the run went back to a checkpoint
            self.losses = {earlier: value for earlier, value in self.losses.items() if earlier < step}
        self.step, self.points = step, points
        self._seconds.append(seconds)
        if isinstance(loss, int | float):
            self.losses[step] = float(loss)

    def _progress(self) -> Progress:
        """The loss is the mean of the last 20 steps; the time left goes by all steps, for reports are long and rare."""
        left = sum(self._seconds) / len(self._seconds) * (self.steps - self.step) if self._seconds else None
        recent = list(self.losses.values())[-20:]
        loss = sum(recent) / len(recent) if recent else None
        return Progress(self.step, self.steps, loss, self.points, left)


def curve(losses: dict[int, float], points: int = 120) -> list[tuple[int, float]]:
    """(step, mean loss) of at most `points` equal stretches of a run."""
    steps = list(losses)
    size = -(-len(steps) // points) or 1
    stretches = [steps[start : start + size] for start in range(0, len(steps), size)]
    return [(part[-1], sum(losses[step] for step in part) / len(part)) for part in stretches]


def clock(seconds: float) -> str:
    """Seconds in words: 40 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
