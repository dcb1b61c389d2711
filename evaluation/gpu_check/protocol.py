# SPDX-License-Identifier: Apache-2.0
"""A list of parts under one budget of time: each is tried, none stops the others, and a page says so."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from utils.general_utils import write_text_atomically

ROOT = Path(__file__).resolve().parents[2]
PASS, FAIL, SKIP = "pass", "FAIL", "skip"
REHEARSAL = 4  # times as long may a program take that runs on a CPU beside others
LAST_LINES = 12  # of a failed program's output, for the page


class PartFailed(Exception):
    """Says in one line what a part has shown to be wrong; `details` are lines of output."""

    def __init__(self, reason: str, details: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.details = list(details)


@dataclass
class Finding:
    """What a part has shown: one line for the page's table, and lines (tables) for its section."""

    summary: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """`run` gives a finding or raises PartFailed. It is skipped where less than `needs_s` of the budget is left."""

    name: str
    needs_s: float
    run: Callable[[Session], Finding | str]
    """A text instead of a finding: why there was nothing to do."""


@dataclass
class Session:
    """What the parts work with. python: words that start a Python program; deadline_s: of time.monotonic."""

    python: tuple[str, ...]
    device: str
    is_tiny: bool
    folder: Path
    deadline_s: float
    original: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.deadline_s - time.monotonic()

    def output_of(self, words: Sequence[str], limit_s: float, at: Path = ROOT, **environment: str) -> str:
        """What a Python program prints, run in the folder `at`. Raises PartFailed when it fails or needs more time."""
        limit_s = max(min(limit_s * (REHEARSAL if self.is_tiny else 1), self.left_s()), 1.0)
        process = self.start(words, at, **environment)
        try:
            text, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            text = end(process)
            raise PartFailed(f"{words[0]} was not done in {limit_s:.0f} s", last_lines(text)) from None
        except BaseException:  # Ctrl-C, which a program of a session of its own does not receive
            end(process)
            raise
        if process.returncode:
            raise PartFailed(f"{words[0]} ended with status {process.returncode}", last_lines(text))
        return text

    def start(self, words: Sequence[str], at: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
        """Starts a Python program in a process group of its own; stderr goes where stdout goes."""
        return subprocess.Popen(
            [*self.python, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, cwd=at, env={**os.environ, **self.environment, **environment},
        )  # fmt: skip


def end(process: subprocess.Popen[str]) -> str:
    """Kills a program and what it has started; returns what it had printed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def last_lines(text: str) -> list[str]:
    """The last lines of a program's output that are not blank."""
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]


@dataclass
class Result:
    """One line of the page's table."""

    part: str
    state: str
    seconds: float
    summary: str
    details: list[str]


def check(parts: Sequence[Part], session: Session, page: Path, title: str) -> bool:
    """Tries every part that fits into the budget; writes the page after each. Whether none failed."""
    results: list[Result] = []
    for part in parts:
        result = _result(part, session)
        results.append(result)
        print(f"{result.state:>4} {result.seconds:6.1f} s  {part.name}: {result.summary}", flush=True)
        write_text_atomically(page, page_of(title, results, [p.name for p in parts[len(results) :]]))
    return all(result.state != FAIL for result in results)


def _result(part: Part, session: Session) -> Result:
    left = session.left_s()
    if left < part.needs_s:
        why = f"needs {part.needs_s:.0f} s, {max(left, 0):.0f} s of the budget are left"
        return Result(part.name, SKIP, 0.0, why, [])
    start = time.monotonic()
    try:
        found = part.run(session)
    except PartFailed as error:
        return Result(part.name, FAIL, time.monotonic() - start, str(error), error.details)
    except Exception as error:  # a part that cannot be read must not cost the others
        return Result(part.name, FAIL, time.monotonic() - start, f"{type(error).__name__}: {error}", [])
    seconds = time.monotonic() - start
    if isinstance(found, str):
        return Result(part.name, SKIP, seconds, found, [])
    return Result(part.name, PASS, seconds, found.summary, found.details)


def page_of(title: str, results: Sequence[Result], waiting: Sequence[str]) -> str:
    """One page of Markdown: the table of all parts, then what those that have more to say have shown."""
    counts = ", ".join(f"{sum(r.state == state for r in results)} {state}" for state in (PASS, FAIL, SKIP))
    lines = ["# GPU check", "", title, "", f"{counts}{f', {len(waiting)} to come' if waiting else ''}", ""]
    lines += ["| part | result | s | what |", "|---|---|---|---|"]
    lines += [f"| {r.part} | {r.state} | {r.seconds:.0f} | {_cell(r.summary)} |" for r in results]
    for r in results:
        if r.details:
            is_table = r.details[0].startswith("|")
            lines += ["", f"## {r.part}", "", *(r.details if is_table else ["```text", *r.details, "```"])]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
