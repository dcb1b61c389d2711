# SPDX-License-Identifier: Apache-2.0
"""A run folder: owned by one run at a time, never overwritten unasked, and fit to be handed to another person.

It holds the resolved config (feed it back for the same run), upstream's cfg_args, versions and seeds.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import torch

from arguments import Config
from arguments.cfg_args import write_cfg_args
from arguments.load import to_yaml
from distillation import is_law_file, law_path
from scene import cloud_path
from trainer.checkpoints import LoadedCheckpoint, newest_good, run_id_of
from trainer.provenance import now, provenance
from trainer.run_lock import FolderInUse, FolderLost, RunLock
from trainer.run_records import is_count, read_object, read_regular
from utils.bounded_file import read_bytes
from utils.general_utils import PART, atomic_path, is_being_written, write_text_atomically
from utils.tree_file import unfinished_trees

OUTPUTS = (
    "config.yaml", "cfg_args", "cameras.json", "log.jsonl", "events.out.tfevents.*", "chkpnt*.safetensors",
    "law.py", "point_cloud", "videos", "process_videos", "test_six_views", "train_process", "cograd",
)  # fmt: skip
"""All that a run leaves but run.json, and init_points3d.ply, which a user may have put there."""
INITIAL_POINTS = "init_points3d.ply"
RECORD = "run.json"
LAW_COPY, MAX_LAW_BYTES = "law.py", 1 << 20
START_FILES = ("config.yaml", "cfg_args", "cameras.json", LAW_COPY, INITIAL_POINTS)
"""What is written once, when a run starts; RECORD is written again at times."""


class RunFinished(Exception):
    """The run to be resumed has done its last step and kept no checkpoint; the message says where its scene is."""


class RunFolder:
    """The folder of one run, locked until `close`. `report` gets what the user should know.

    `find` looks and refuses, `begin` writes, `started` ends the start-up; from then on `keep` guards every write.
    """

    def __init__(self, config: Config, report: Callable[[str], None] = print) -> None:
        """Makes and locks the folder, unless --dry_run, which only calls `find`.

        ValueError when that cannot be done or another process has it.
        """
        self.path, self.config, self.report = config.output_dir, config, report
        self.run_id = uuid.uuid4().hex
        self.remade = False  # since it was last set to False
        self._record: dict[str, Any] = {}
        self._resumed: Path | None = None
        self._open_files: dict[str, IO[bytes]] = {}
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]  # the innermost first
        self._is_begun = False
        self._lock: RunLock | None = None
        if config.dry_run:
            self._refuse_unwritable()
            RunLock.refuse_if_held(self.path)
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path)
        except OSError as error:
            raise self._cannot_write(error) from error
        if not self._lock.held:
            report(f"the file system of {self.path} has no locks: nothing stops a second run in the same folder")

    def find(self) -> LoadedCheckpoint | None:
        """The checkpoint to continue from, None for a new run. Nothing is changed yet.

        Raises ValueError when the folder holds an earlier run that may be neither continued nor overwritten, and when
        its newest checkpoint is another run's; RunFinished when nothing is left to do and no checkpoint was kept.
        """
        self._record = self._read_record()
        found = newest_good(self.path, self.report) if self.config.resume else None
        self._check_finished(found)
        if found is not None:
            self._resumed = found[0]
            self.run_id = self._identity(*found)
        elif self._holds_a_run():
            self._may_clear()
        return found

    @property
    def has_stale_points(self) -> bool:
        """Whether init_points3d.ply was sampled for a run that is not continued, with other settings perhaps."""
        return self._resumed is None and self._record.get("initial_points") == "sampled"

    def begin(self, device: torch.device, write_scene: Callable[[], None] = lambda: None) -> None:
        """Clears what an earlier run left, unless it is continued; writes config.yaml, cfg_args and run.json.

        write_scene: what else is written at the start. Call `find` first. Raises ValueError when the folder cannot be
        written.
        """
        if self._lock is not None and not self._lock.in_place():
            raise ValueError(f"{self.path} was removed or moved while the run started; start it again")
        try:
            if self._resumed is None and self._holds_a_run():
                for old in [old for pattern in OUTPUTS for old in self.path.glob(pattern)]:
                    shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            if self.has_stale_points:
                (self.path / INITIAL_POINTS).unlink(missing_ok=True)
            self._remove_partial_files()
            write_text_atomically(self.path / "config.yaml", to_yaml(self.config))
            with atomic_path(self.path / "cfg_args") as temporary:
                write_cfg_args(temporary, self.config)
            self._record = self._new_record(device)
            self._copy_law()
            self._write_record()
            write_scene()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._is_begun = True

    def started(self) -> None:
        """The start-up is over; START_FILES are held open, so that they can be written again if they are removed."""
        for name in START_FILES:
            if (self.path / name).is_file():
                self._open_files[name] = (self.path / name).open("rb")

    def keep(self) -> None:
        """To be called before each write: returns at once while the folder is still this run's.

        A folder that was removed or moved is made, locked and filled with START_FILES and run.json again. Raises
        FolderLost when another run has it, OSError when it cannot be made.
        """
        if self._lock is None or self._lock.in_place():
            return
        self._refuse_other_run()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = RunLock(self.path)
        except FolderInUse as error:
            raise FolderLost(f"{self.path} was removed or moved while this run wrote to it; now {error}") from None
        self._lock.release()
        self._lock = lock
        self._refuse_other_run()
        for name, file in self._open_files.items():
            if not (self.path / name).exists():
                file.seek(0)
                with atomic_path(self.path / name) as temporary, temporary.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
        self._record.setdefault("remade_utc", []).append(now())
        self._write_record()
        self.remade = True
        self.report(f"{self.path} was removed or moved; the run made it again and continues there")

    def finished(self, peak_bytes: dict[str, int], steps: int) -> None:
        """Notes in run.json that the run came to its end, and the most memory that it had. Raises OSError."""
        self._record |= {"finished_utc": now(), "steps": steps, "peak_bytes": peak_bytes}
        self._write_record()

    def rolled_back(self, from_step: int, to_step: int, reason: str) -> None:
        """Notes in run.json that the run went back to a checkpoint. Raises OSError."""
        entry = {"utc": now(), "from_step": from_step, "to_step": to_step, "reason": reason}
        self._record.setdefault("rollbacks", []).append(entry)
        self._write_record()

    def close(self) -> None:
        """Others may have the folder now."""
        for file in self._open_files.values():
            file.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """What a run that was refused has made is removed again."""
        if self._lock is not None and not self._is_begun and self._lock.in_place():
            with suppress(OSError):
                self._withdraw(self._lock)
        self.close()

    def _withdraw(self, lock: RunLock) -> None:
        """Removes the folders that were made for this run; in one that was there, run.lock is as before."""
        if self.path in self._made:
            shutil.rmtree(self.path)
        else:
            lock.withdraw()
        for folder in self._made[1:]:
            folder.rmdir()  # OSError where another run has come to use it

    def _refuse_unwritable(self) -> None:
        """ValueError for a folder that a run could not make or write."""
        nearest = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not nearest.is_dir():
            raise self._cannot_write(NotADirectoryError(f"{nearest} is a file"))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise self._cannot_write(PermissionError(f"{nearest} is not writable"))

    def _identity(self, path: Path, tree: dict[str, Any]) -> str:
        """The id of the run that is continued. ValueError for a checkpoint of another run."""
        own, stored = self._record.get("run_id"), run_id_of(tree)
        is_damaged = not self._record and (self.path / RECORD).exists()
        if stored != own and not is_damaged:
            of = f"run {stored}" if stored else "an unknown run"
            whose = f"of run {own}" if own else "without an id of its run" if self._record else "missing"
            raise ValueError(
                f"{path} is a checkpoint of {of}, but {RECORD} in its folder is {whose}: start from it with "
                f"--start_checkpoint {path} in another folder, or remove it from this one"
            )
        return own or stored or self.run_id

    def _holds_a_run(self) -> bool:
        """Whether a run has got so far as to write its first step, or anything later."""
        log = self.path / "log.jsonl"
        late = log, self.path / "point_cloud", *self.path.glob("chkpnt*")
        return any(path.exists() for path in late[1:]) or (log.is_file() and log.stat().st_size > 0)

    def _check_finished(self, found: LoadedCheckpoint | None) -> None:
        """RunFinished for a finished run whose last checkpoint is gone; ValueError where more steps are wanted."""
        steps, wanted = self._record.get("steps"), self.config.optimization.iterations
        if not (self.config.resume and "finished_utc" in self._record and is_count(steps)):
            return
        scene = f"{self.path} is finished: its {steps} steps are done, and its scene is in {self.path / 'point_cloud'}"
        last = self.path / f"chkpnt{steps}.safetensors"
        if wanted <= steps and (found is None or found[0] != last):
            raise RunFinished(scene)
        if found is not None:
            return
        raise ValueError(
            f"{scene}. No checkpoint was kept from which it could be trained to step {wanted}: view or export the "
            "scene, or start again with --overwrite --keep_last_checkpoint true"
        )

    def _may_clear(self) -> None:
        """ValueError unless what an earlier run has left may be removed."""
        earlier, start = self._record, self.config.start_checkpoint
        finished = "finished_utc" in earlier
        saved = list(self.path.glob("chkpnt*"))
        is_done = cloud_path(self.path, self.config.optimization.iterations).exists()
        young = self.config.resume and earlier and not finished and not saved and not is_done
        if not (self.config.overwrite or young):
            hint = "no checkpoint of it is whole" if self.config.resume else "--resume auto continues it"
            if finished and not saved:
                hint = "its steps are done"
            raise ValueError(
                f"{self.path} holds {'a finished' if finished else 'an earlier'} run, started "
                f"{earlier.get('started_utc', 'at an unknown time')}: {hint}, --overwrite deletes it and starts again, "
                "--model_path FOLDER writes elsewhere"
            )
        if not earlier:
            raise ValueError(f"{self.path} holds no run.json, so what is there may not be a run's; write elsewhere")
        if start and Path(start).resolve().is_relative_to(self.path.resolve()):
            raise ValueError(
                f"{start} is in {self.path}, which --overwrite clears; write elsewhere with --model_path FOLDER"
            )
        if young:
            self.report(f"{self.path} holds a run that ended before its first checkpoint; it starts again")

    def _refuse_other_run(self) -> None:
        """FolderLost when what is at the folder's path now is another run's: its record, or its files of the start.

        Other outputs without these are this run's: it was writing them while the folder went away.
        """
        if (self.path / RECORD).exists():
            is_own = self._read_record().get("run_id") == self.run_id
        else:
            there = [name for name in START_FILES if (self.path / name).is_file()]
            is_own = all(self._is_as_written(name) for name in there)
        if is_own:
            return
        raise FolderLost(
            f"{self.path} was removed or moved, and another run's folder has its place: this run writes nothing more; "
            "resume it from where its checkpoints are, with --resume FOLDER"
        )

    def _is_as_written(self, name: str) -> bool:
        """Whether one of START_FILES is the one of this run, in the folder that is there now."""
        if name not in self._open_files:
            return False
        file = self._open_files[name]
        file.seek(0)
        own = file.read(os.fstat(file.fileno()).st_size)
        return read_regular(self.path / name, len(own) + 1) == own

    def _remove_partial_files(self) -> None:
        """Files that were being written when a run was killed: those of a run's own outputs, unless they are in use."""
        own = [re.escape(name).replace(r"\*", ".*") for name in (*OUTPUTS, *START_FILES, RECORD)]
        named = re.compile(rf"\.({'|'.join(own)}){PART}")
        folders = [folder for name in OUTPUTS for folder in self.path.glob(name) if not folder.is_symlink()]
        inside = [
            path for folder in folders for path in folder.rglob(".*.part") if re.fullmatch(rf".*{PART}", path.name)
        ]
        for part in [*(path for path in self.path.glob(".*.part") if named.fullmatch(path.name)), *inside]:
            if not is_being_written(part):
                part.unlink(missing_ok=True)
        for part in unfinished_trees(self.path):  # checkpoints: whoever writes one here has the folder's lock
            part.unlink(missing_ok=True)

    def _new_record(self, device: torch.device) -> dict[str, Any]:
        made = provenance(self.config, device)
        if self._resumed is None:
            points = "given" if (self.path / INITIAL_POINTS).exists() else "sampled"
            points = "checkpoint" if self.config.start_checkpoint else points
            return {"run_id": self.run_id, **made, "initial_points": points}
        earlier = {name: value for name, value in self._record.items() if name not in ("finished_utc", "steps")}
        resumed = [*earlier.get("resumed", []), {**made, "from": self._resumed.name}]
        return {"run_id": self.run_id, **earlier, "resumed": resumed}

    def _copy_law(self) -> None:
        """A law's own file, beside what it made; reports where a resumed run has another.

        Raises ValueError for a file that is too long.
        """
        name = self.config.guidance.distillation
        if not is_law_file(name):
            return
        source, copy = read_bytes(law_path(name), MAX_LAW_BYTES), self.path / LAW_COPY
        if self._resumed is not None and copy.is_file() and read_regular(copy, len(source) + 1) != source:
            self.report(f"{law_path(name)} differs from {copy}, with which the run began; the new one is used")
        with atomic_path(copy) as temporary:
            temporary.write_bytes(source)
        self._record["law"] = {"name": name, "file": LAW_COPY, "sha256": hashlib.sha256(source).hexdigest()}

    def _read_record(self) -> dict[str, Any]:
        """run.json; empty when it is missing or damaged."""
        try:
            return read_object(self.path / RECORD)
        except (OSError, ValueError):
            return {}

    def _write_record(self) -> None:
        write_text_atomically(self.path / RECORD, json.dumps(self._record, indent=2) + "\n")

    def _cannot_write(self, error: OSError) -> ValueError:
        return ValueError(f"the run folder {self.path} cannot be written ({error}); choose another with --model_path")
