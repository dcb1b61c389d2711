# SPDX-License-Identifier: Apache-2.0
"""What run folders take of the disk, and what of it a finished run needs no more."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from arguments.yaml_file import read_yaml
from trainer.checkpoints import numbered
from trainer.run_folder import RECORD
from trainer.run_lock import FolderInUse, RunLock
from trainer.run_records import read_object
from utils.file_formats import XZ
from utils.general_utils import is_being_written

EXPORTS = "export"
"""The folder of exported files, which can be made again."""


@dataclass(frozen=True)
class DiskUse:
    """`state`: finished, unfinished or in use. `removable`: files that may go; none while a run may need them."""

    run: Path
    state: str
    total_bytes: int
    removable: tuple[Path, ...]

    @property
    def removable_bytes(self) -> int:
        """What removing them frees."""
        return sum(_bytes_of(path) for path in self.removable)


def runs_below(folder: Path) -> list[Path]:
    """Run folders at and below a folder: those with a run.json. Links are not followed."""
    return sorted({path.parent for path in folder.rglob(RECORD) if not path.is_symlink()})


def disk_use(run: Path, with_exports: bool = False) -> DiskUse:
    """What a run folder takes. Of a finished run, checkpoints may go that its settings did not ask for.

    with_exports: exported files too.
    """
    removable = _removable(run, with_exports)
    state = "unfinished" if removable is None else "finished"
    try:
        RunLock.refuse_if_held(run)
    except FolderInUse:
        state, removable = "in use", None
    return DiskUse(run, state, total_bytes(run), tuple(removable or ()))


def total_bytes(run: Path) -> int:
    """What a run folder takes."""
    return sum(_bytes_of(path) for path in run.rglob("*") if _is_own_file(path))


def free(run: Path, with_exports: bool = False) -> int:
    """Removes what `disk_use` names, while no run has the folder; returns the bytes that it freed.

    Raises FolderInUse when a run does, and OSError.
    """
    lock = RunLock(run, on_full_disk=True)
    try:
        removable = _removable(run, with_exports) or []
        freed = sum(map(_bytes_of, removable))
        for path in removable:
            path.unlink(missing_ok=True)
        return freed
    finally:
        lock.withdraw()


def remove(run: Path) -> int:
    """Removes a run folder with all that is in it, while no run has it; returns the bytes that it freed.

    Raises FolderInUse when a run does, and OSError.
    """
    lock = RunLock(run, on_full_disk=True)
    try:
        freed = total_bytes(run)
        shutil.rmtree(run)
        return freed
    finally:
        lock.release()


def _removable(run: Path, with_exports: bool) -> list[Path] | None:
    """None unless run.json says that the run is finished and its last scene is there."""
    try:
        record = read_object(run / RECORD)
    except (OSError, ValueError):
        return None
    last = run / "point_cloud" / f"iteration_{record.get('steps')}" / "point_cloud.ply"
    if "finished_utc" not in record or not (last.exists() or last.with_name(last.name + XZ).exists()):
        return None
    removable, exports = _unwanted_checkpoints(run), run / EXPORTS
    if with_exports and not exports.is_symlink():
        removable += [path for path in exports.rglob("*") if _is_own_file(path) and not _is_on_its_way(path)]
    return removable


def _unwanted_checkpoints(run: Path) -> list[Path]:
    """All but those of `checkpoint_iterations`; none where `keep_last_checkpoint` is set or config.yaml is damaged."""
    if not (run / "config.yaml").is_file():  # a pipe would be waited for
        return []
    settings, problems = read_yaml(str(run / "config.yaml"))
    chosen = settings.get("checkpoint_iterations", ())
    if problems or settings.get("keep_last_checkpoint", False) is not False or not isinstance(chosen, list | tuple):
        return []
    return [path for number, path in numbered(run) if number not in chosen and _is_own_file(path)]


def _is_own_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_on_its_way(path: Path) -> bool:
    """Whether an export writes it now, which would fail without it."""
    return path.suffix == ".part" and is_being_written(path)


def _bytes_of(path: Path) -> int:
    """0 for a file that has just gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
