# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of one run folder: when one is due, which are kept, which is the newest that is whole.

`chkpntK.safetensors` is the run after its step K: the `state_dict()` of every part, by the part's name, and under "run"
the run's id and settings.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from utils.tree_file import load_tree, save_tree

Report = Callable[[str], None]
LoadedCheckpoint = tuple[Path, dict[str, Any]]
"""A checkpoint's path and what is in it."""


class Part(Protocol):
    """Something that a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class CheckpointRules:
    """Every `every` steps (0: never) and after the `last`, of which `keep` stay; at `chosen` ones, which all stay."""

    every: int
    keep: int
    chosen: Collection[int]
    last: int

    def is_due(self, iteration: int) -> bool:
        """Whether a checkpoint is to be written after this iteration."""
        periodic = self.every and (iteration % self.every == 0 or iteration == self.last)
        return iteration in self.chosen or bool(periodic)


class Checkpoints:
    """Remembers the folder, the parts of the run, the rules, and what is said of the run: {"id", "settings"}.

    guard: called before a file is made; raises FolderLost when the folder is another run's.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Part],
        rules: CheckpointRules,
        run: Mapping[str, Any] | None = None,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.parts, self.rules, self.run, self.guard = folder, parts, rules, dict(run or {}), guard

    def save(self, iteration: int) -> Path:
        """Writes chkpntK.safetensors atomically, then removes what need not be kept. Raises OSError."""
        path = self.folder / f"chkpnt{iteration}.safetensors"
        tree = {"run": self.run, **{name: part.state_dict() for name, part in self.parts.items()}}
        save_tree(path, tree, self.guard)
        others = [(number, old) for number, old in numbered(self.folder) if number not in self.rules.chosen]
        for old in [old for number, old in others if number <= iteration][self.rules.keep :]:
            old.unlink(missing_ok=True)
        return path

    def remove(self) -> None:
        """Removes all but the chosen ones. Raises OSError."""
        for number, path in numbered(self.folder):
            if number not in self.rules.chosen:
                path.unlink(missing_ok=True)

    def load(self, path: Path, tree: Mapping[str, Any]) -> None:
        """Continues every part from a checkpoint that was read. ValueError when it is of another kind of run."""
        try:
            for name, part in self.parts.items():
                part.load_state_dict(tree[name])
        except KeyError as error:
            raise ValueError(f"{path} is not a checkpoint of a training run: it has no {error}") from error


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """(iteration, path) of the checkpoints in a folder, the newest first."""
    found = [(re.fullmatch(r"chkpnt(\d{1,9})\.safetensors", path.name), path) for path in folder.glob("chkpnt*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def newest_good(folder: Path, report: Report, of_run: str | None = None) -> LoadedCheckpoint | None:
    """The newest whole checkpoint of a folder and what is in it, on the CPU; None without one.

    Reports each damaged one that is newer; with `of_run`, an id, those of other runs too.
    """
    for _, path in numbered(folder):
        try:
            tree = load_tree(path)
        except ValueError as error:
            report(f"{error}: falling back to the checkpoint before it")
            continue
        if of_run is None or run_id_of(tree) == of_run:
            return path, tree
        report(f"{path} is of another run: falling back to the checkpoint before it")
    return None


def run_id_of(tree: Mapping[str, Any]) -> str | None:
    """The id of the run that a checkpoint is of; None where it does not say."""
    run = tree.get("run")
    found = run.get("id") if isinstance(run, dict) else None
    return found if isinstance(found, str) else None
