# SPDX-License-Identifier: Apache-2.0
"""How far a run is, from the log.jsonl that train.py adds a line to at each step."""

from dataclasses import dataclass
from pathlib import Path

from trainer.run_records import StepRecord, parse_step, read_regular

READ_BYTES = 4 << 20
"""Read at a time; a line has a few kilobytes."""
CURVE_POINTS = 120


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
        self.reset()

    def reset(self) -> None:
        """Forgets everything: a process that resumes a run cuts off the lines after its checkpoint."""
        self.losses: dict[int, float] = {}
        self.step = 0
        self.points: int | None = None
        self._offset, self._half = 0, b""
        self._seconds, self._timed = 0.0, 0

    def read(self) -> Progress:
        """Takes what is new. A log that got shorter is read from its beginning."""
        try:
            if self.path.stat().st_size < self._offset:
                self.reset()
            content = read_regular(self.path, READ_BYTES, self._offset)
        except OSError:
            content = b""
        self._offset += len(content)
        *lines, self._half = (self._half + content).split(b"\n")
        self._half = self._half[:READ_BYTES]  # what is longer is no line of a log
        for line in lines:
            record = parse_step(line)
            if record is not None and record.iteration <= self.steps:
                self._take(record)
        return self._progress()

    def _take(self, record: StepRecord) -> None:
        step = record.iteration
        while self.losses and next(reversed(self.losses)) >= step:  # the run went back to a checkpoint
            self.losses.popitem()
        self.step, self.points = step, record.points
        self._seconds, self._timed = self._seconds + record.seconds, self._timed + 1
        if record.loss is not None:
            self.losses[step] = record.loss

    def _progress(self) -> Progress:
        """The loss is the mean of the last 20 steps; the time left goes by all steps, for reports are long and rare."""
        left = self._seconds / self._timed * (self.steps - self.step) if self._timed else None
        recent = list(self.losses.values())[-20:]
        loss = sum(recent) / len(recent) if recent else None
        return Progress(self.step, self.steps, loss, self.points, left)


def curve(losses: dict[int, float]) -> list[tuple[int, float]]:
    """(step, mean loss) of at most CURVE_POINTS equal stretches of a run."""
    steps = list(losses)
    size = -(-len(steps) // CURVE_POINTS) or 1
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
