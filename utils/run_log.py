# SPDX-License-Identifier: Apache-2.0
"""What a run tells while it works: progress bar, TensorBoard, one JSON line a step, and the time of each phase."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter
from tqdm import tqdm


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

    Remembers: the exponential moving average of the loss that the bar shows.
    """

    def __init__(self, folder: Path, iterations: int, first_iteration: int = 0, quiet: bool = False) -> None:
        self._jsonl = (folder / "log.jsonl").open("a" if first_iteration else "w", buffering=1)
        self._board = FileWriter(str(folder))
        self._bar = tqdm(total=iterations, initial=first_iteration, desc="Training", disable=quiet, smoothing=0.05)
        self._ema_loss: float | None = None

    def step(self, record: dict[str, Any]) -> None:
        """Logs one step: numbers, lists and mappings by name, among them `iteration`, `loss` and `points`."""
        self._jsonl.write(json.dumps(record) + "\n")
        if record["iteration"] % BOARD_INTERVAL == 0 or record["iteration"] == self._bar.total:
            self._to_board(record)
        if record["loss"] is not None:
            old = record["loss"] if self._ema_loss is None else self._ema_loss
            self._ema_loss = 0.6 * old + 0.4 * record["loss"]
        self._bar.update()
        if self._ema_loss is not None:
            self._bar.set_postfix_str(f"loss={self._ema_loss:.4g}, points={record['points']}", refresh=False)

    def _to_board(self, record: dict[str, Any]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in _scalars(record)]
        self._board.add_summary(Summary(value=values), record["iteration"])  # one event a step: a fifth of the time

    def note(self, message: str) -> None:
        """Prints a line without tearing the progress bar."""
        self._bar.write(message)

    def close(self) -> None:
        self._bar.close()
        self._board.close()
        self._jsonl.close()


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list) and all(isinstance(v, dict) for v in value):  # one mapping a view
            together = {key: [v[key] for v in value] for key in (value[0] if value else {})}
            yield from _scalars(together, f"{prefix}{name}/")
        elif isinstance(value, list):
            numbers = [v for entry in value for v in (entry if isinstance(entry, list) else [entry])]
            if numbers and all(isinstance(v, int | float) for v in numbers):
                yield f"{prefix}{name}", sum(numbers) / len(numbers)
        elif isinstance(value, (int, float)) and name != "iteration":
            yield f"{prefix}{name}", float(value)
