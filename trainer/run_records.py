# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON files of run folders, whoever wrote them: bounded, regular files only, every value checked.

A run folder may come from another machine, or from somebody who wants to break the reader.
"""

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

RUN_FILE_MAX_BYTES = 1 << 20
"""Of run.json, which has some kilobytes."""
LARGEST = 2**53
"""No step, no number of Gaussians and no number of milliseconds is larger."""


@dataclass(frozen=True)
class StepRecord:
    """One line of log.jsonl: the step, its loss (None: it was skipped), the number of Gaussians, its duration."""

    iteration: int
    loss: float | None
    points: int
    seconds: float


def read_regular(path: str | os.PathLike[str], max_bytes: int, offset: int = 0) -> bytes:
    """At most `max_bytes` bytes of a regular file from `offset` on; waits for no pipe and no terminal.

    Raises OSError when it cannot be opened or is not a regular file.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        file.seek(offset)
        return file.read(max_bytes)


def read_object(path: Path, max_bytes: int = RUN_FILE_MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, and ValueError, one sentence, for anything else."""
    content = read_regular(path, max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path} is longer than {max_bytes} bytes; expected a JSON object of a run")
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({type(error).__name__}); expected a JSON object") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}; expected a JSON object")
    return tree


def parse_step(line: str | bytes) -> StepRecord | None:
    """A line of log.jsonl; None for a line that is cut, is not a step, or holds impossible values."""
    tree, seconds = _line(line), parse_seconds(line)
    iteration, points, loss = (tree.get(name) for name in ("iteration", "points", "loss"))
    if seconds is None or not (is_count(iteration) and is_count(points)):
        return None
    if loss is not None and not _is_finite(loss):
        return None
    return StepRecord(iteration, None if loss is None else float(loss), points, seconds)


def parse_seconds(line: str | bytes) -> float | None:
    """How long the step of a line took, the sum of its phases; None where the line does not say."""
    phases = _line(line).get("phase_ms")
    if not isinstance(phases, dict) or not all(map(_is_duration, phases.values())):
        return None
    return sum(phases.values()) / 1e3


def _line(line: str | bytes) -> dict[str, Any]:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def is_count(value: object, lowest: int = 0) -> TypeGuard[int]:
    """Whether a value is a whole number in lowest..LARGEST."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= LARGEST


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value)


def _is_duration(value: object) -> bool:
    return _is_finite(value) and 0 <= value <= LARGEST  # type: ignore[operator]
