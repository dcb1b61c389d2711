# SPDX-License-Identifier: Apache-2.0
"""Writes that may fail without ending a run: a failed one is reported, and training continues."""

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from trainer.run_lock import FolderLost
from utils.failures import MachineFailure, first_line, machine_failure
from utils.wording import counted

TRIED_AGAIN = ("log.jsonl", "process video", "checkpoint", "run.json")
"""Kinds that lose nothing when a later write succeeds."""

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class CarefulWrites:
    """Remembers the kinds of output whose last write failed, and how often each did; reports the first failure.

    A checkpoint holds what was lost, so that a resumed run does not take its folder for complete. A write of the same
    `step` that succeeds later makes up for one that failed.

    guard: called before each write; raises FolderLost when the folder is another run's.
    memory_remedy: what to do where memory did not suffice for a write.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        guard: Callable[[], None] = lambda: None,
        memory_remedy: Callable[[MachineFailure], str] = lambda failure: "",
    ) -> None:
        self.report, self.guard, self.memory_remedy = report, guard, memory_remedy
        self.failing, self.lost = dict[str, str](), dict[str, int]()
        self.step: int | None = None  # the iteration whose outputs are written; None: not known
        self._lost_at = dict[str, int]()  # kind -> the last step whose output is lost

    def __call__(self, kind: str, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What write(...) returns; None when it raised an exception, of whatever class. Raises the guard's FolderLost.

        Encoders and array libraries raise their own classes, and a step that was computed is worth more than any of its
        outputs. KeyboardInterrupt passes.
        """
        try:
            self.guard()
            result = write(*args, **kwargs)
        except FolderLost:
            raise
        except Exception as error:
            if kind not in self.failing:
                self.report(f"{kind} could not be written ({_reason(error)}); training continues{self._remedy(error)}")
                logger.debug("%s", kind, exc_info=True)
            self.failing[kind] = str(error)
            self._count_loss(kind)
            return None
        if self.step is not None and self._lost_at.get(kind) == self.step:
            self._make_up_for(kind)
        if self.failing.pop(kind, None) is not None:
            self.report(f"{kind} can be written again")
        return result

    def missing(self) -> str:
        """What is missing in the folder, in words; empty when nothing is."""
        kinds = {**self.failing, **{kind: "" for kind in self.lost if kind not in TRIED_AGAIN}}
        return ", ".join(f"{kind} ({counted(self.lost[kind], 'time')})" for kind in kinds)

    def lost_at(self, step: int) -> set[str]:
        """The kinds whose output of this step is lost."""
        return {kind for kind, at in self._lost_at.items() if at == step}

    def state_dict(self) -> dict[str, Any]:
        """What was lost: kind -> [times, the last step, -1 where that is not known]."""
        kept = {kind: times for kind, times in self.lost.items() if kind not in TRIED_AGAIN}
        return {kind: [times, self._lost_at.get(kind, -1)] for kind, times in kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What was lost by the time that `state_dict` was taken, and nothing later: those steps are made again."""
        self.failing = {kind: reason for kind, reason in self.failing.items() if kind in TRIED_AGAIN}
        self.lost = {kind: times for kind, times in self.lost.items() if kind in TRIED_AGAIN}
        self.lost |= {kind: times for kind, (times, _) in state.items()}
        self._lost_at = {kind: step for kind, (_, step) in state.items() if step >= 0}

    def _count_loss(self, kind: str) -> None:
        """Of one step once, however often it is tried."""
        if self.step is None or self._lost_at.get(kind) != self.step:
            self.lost[kind] = self.lost.get(kind, 0) + 1
        if self.step is not None:
            self._lost_at[kind] = self.step

    def _make_up_for(self, kind: str) -> None:
        del self._lost_at[kind]
        self.lost[kind] -= 1
        if not self.lost[kind]:
            del self.lost[kind]

    def _remedy(self, error: Exception) -> str:
        failure = machine_failure(error)
        if failure is not None and failure.of_memory and (remedy := self.memory_remedy(failure)):
            return f"; for the next run {remedy}"
        return ". Free the disk or repair the folder" if isinstance(error, OSError) else ""


def _reason(error: Exception) -> str:
    """An unexpected class is named: its message alone may say nothing."""
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {first_line(error)}"
