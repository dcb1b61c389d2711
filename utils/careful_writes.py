# SPDX-License-Identifier: Apache-2.0
"""Writes that may fail without ending a run: a full disk or a folder that went away is told, and the work goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

TRIED_AGAIN = ("log.jsonl", "process video", "checkpoint", "run.json")
"""Kinds that lose nothing when a later write succeeds."""

P = ParamSpec("P")
T = TypeVar("T")


class CarefulWrites:
    """Remembers the kinds of output whose last write failed, and how often each did; tells of the first failure.

    guard: called before each write; raises FolderLost when the folder is another run's.
    """

    def __init__(self, tell: Callable[[str], None], guard: Callable[[], None] = lambda: None) -> None:
        self.tell, self.guard, self.failing, self.lost = tell, guard, dict[str, str](), dict[str, int]()

    def __call__(self, kind: str, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What write(...) returns; None when it raised OSError. Raises what the guard raises but OSError."""
        try:
            self.guard()
            result = write(*args, **kwargs)
        except OSError as error:
            if kind not in self.failing:
                self.tell(f"{kind} could not be written ({error}); training goes on, free the disk or mend the folder")
            self.failing[kind] = str(error)
            self.lost[kind] = self.lost.get(kind, 0) + 1
            return None
        if self.failing.pop(kind, None) is not None:
            self.tell(f"{kind} can be written again")
        return result

    def missing(self) -> str:
        """What is missing in the folder, in words; empty when nothing is."""
        kinds = {**self.failing, **{kind: "" for kind in self.lost if kind not in TRIED_AGAIN}}
        return ", ".join(f"{kind} ({self.lost[kind]} times)" for kind in kinds)
