# SPDX-License-Identifier: Apache-2.0
"""Runs a target's law on inputs that follow from a seed, and watches time and memory of each."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

LIMIT_S = 10.0  # of processor time
WAIT_LIMIT_S = 300.0  # of any time, for an input that waits
LIMIT_MB = 256
ROUND = 1000
"""Inputs a round; a round follows from its seed."""
CORPUS = Path(__file__).parent / "corpus"


class LawBroken(AssertionError):
    """An input that was neither accepted nor refused as documented."""


class TooSlow(LawBroken):
    """An input that took more than LIMIT_S."""


class TooMuchMemory(LawBroken):
    """An input for which the process grew by more than LIMIT_MB."""


@dataclass(frozen=True)
class Target:
    """A reader of what strangers wrote.

    law(input) gives True for an input that was accepted, False for one refused by the documented exception, and raises
    for everything else. read(path) turns a file of the corpus, corpus/<name>/*, into an input.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    law: Callable[[Any], bool]
    read: Callable[[Path], Any]

    def seeds(self) -> list[Path]:
        """The files of the corpus."""
        return sorted((CORPUS / self.name).iterdir())


@dataclass
class Tally:
    """What came of the inputs of one target so far: accepted, refused, failures by their last line, slowest input."""

    accepted: int = 0
    refused: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    grown_mb: float = 0.0

    @property
    def tried(self) -> int:
        """All inputs."""
        return self.accepted + self.refused + sum(self.failures.values())


@contextmanager
def _alarm() -> Iterator[None]:
    """Interrupts an input after LIMIT_S of processor time, or after WAIT_LIMIT_S in all."""

    def ring(*_: object) -> None:
        raise TooSlow(f"more than {LIMIT_S:g} s")

    before = [signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, WAIT_LIMIT_S)
    try:
        yield
    finally:
        for timer, each, handler in zip((signal.ITIMER_PROF, signal.ITIMER_REAL), (signal.SIGPROF, signal.SIGALRM), before):
            signal.setitimer(timer, 0)
            signal.signal(each, handler)


def check(target: Target, value: Any, tally: Tally) -> None:
    """One input. Raises LawBroken from whatever broke the law."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _alarm():
            accepted = target.law(value)
        tally.slowest_s = max(tally.slowest_s, time.process_time() - start)
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        tally.grown_mb = max(tally.grown_mb, grown_mb)
        if time.process_time() - start > LIMIT_S:
            raise TooSlow(f"{time.process_time() - start:.1f} s")
        if grown_mb > LIMIT_MB:
            raise TooMuchMemory(f"{grown_mb:.0f} MB")
    except Exception as error:
        told = f"{type(error).__name__}: {str(error)[:200]}"
        tally.failures[told] = tally.failures.get(told, 0) + 1
        raise LawBroken(told) from error
    tally.accepted += accepted
    tally.refused += not accepted


def run_round(target: Target, seed: int, tally: Tally, count: int = ROUND) -> BaseException | None:
    """About `count` inputs of one seed, more where one has to be made smaller; what broke the law, if something did."""

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(target.inputs)
    def every_input(value: Any) -> None:
        check(target, value, tally)

    try:
        every_input()
    except Exception as error:  # hypothesis has made the input as small as it could and noted it in the error
        return error
    return None
