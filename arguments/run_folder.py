# SPDX-License-Identifier: Apache-2.0
"""A run folder: owned by one run at a time, never overwritten unasked, and fit to be handed to another person.

It holds the resolved config (feed it back for the same run), upstream's cfg_args, versions and seeds.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from arguments import Config
from arguments.cfg_args import write_cfg_args
from arguments.load import to_yaml
from arguments.yaml_file import read_yaml
from utils.bounded_file import read_text
from utils.checkpoints import newest_good
from utils.general_utils import atomic_path
from utils.run_lock import RunLock

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "diff_gaussian_rasterization",
    "simple_knn",
    "plyfile",
    "safetensors",
)
OUTPUTS = (
    "config.yaml", "cfg_args", "cameras.json", "log.jsonl", "events.out.tfevents.*", "chkpnt*.safetensors",
    "point_cloud", "videos", "process_videos", "test_six_views", "train_process", "cograd",
)  # fmt: skip
"""All that a run leaves but run.json, and init_points3d.ply, which a user may have put there."""
INITIAL_POINTS = "init_points3d.ply"

MAX_BYTES = 1 << 20

Found = tuple[Path, dict[str, Any]]
"""A checkpoint's path and what is in it."""


class RunFolder:
    """The folder of one run, locked until `close`. `tell` gets what the user should know."""

    def __init__(self, config: Config, tell: Callable[[str], None] = print) -> None:
        """Makes and locks the folder. ValueError when that cannot be done or another process has it."""
        self.path, self.config, self.tell = config.output_dir, config, tell
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path)
        except OSError as error:
            raise self._cannot_write(error) from error
        if not self._lock.held:
            tell(f"the file system of {self.path} has no locks: nothing stops a second run in the same folder")

    def begin(self, device: torch.device) -> Found | None:
        """Writes config.yaml, cfg_args and run.json; returns the checkpoint to go on from, None for a new run.

        Raises ValueError when the folder holds an earlier run that may be neither continued nor overwritten, or cannot
        be written.
        """
        try:
            earlier = self._read_record()
            found = newest_good(self.path, self.tell, device) if self.config.resume else None
            if found is not None:
                self._remove_halves()
                self._tell_changes()
            else:
                if self._holds_a_run():
                    self._make_way(earlier)
                if earlier.get("initial_points") == "sampled":  # with other settings, perhaps
                    (self.path / INITIAL_POINTS).unlink(missing_ok=True)
            self._write(earlier, device, found)
        except OSError as error:
            raise self._cannot_write(error) from error
        return found

    def finished(self, peak_bytes: dict[str, int]) -> None:
        """Notes in run.json that the run came to its end, and the most memory that it had. Raises OSError."""
        self._write_record(self._read_record() | {"finished_utc": _now(), "peak_bytes": peak_bytes})

    def close(self) -> None:
        """Others may have the folder now."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _holds_a_run(self) -> bool:
        """Whether a run has got so far as to write its first step, or anything later."""
        log = self.path / "log.jsonl"
        late = log, self.path / "point_cloud", *self.path.glob("chkpnt*")
        return any(path.exists() for path in late[1:]) or (log.is_file() and log.stat().st_size > 0)

    def _make_way(self, earlier: dict[str, Any]) -> None:
        """Removes what a run that is not continued has left, where that is allowed; ValueError where it is not."""
        start, finished = self.config.start_checkpoint, "finished_utc" in earlier
        young = self.config.resume and earlier and not finished and not list(self.path.glob("chkpnt*"))
        if not (self.config.overwrite or young):
            hint = "no checkpoint of it is whole" if self.config.resume else "--resume auto goes on with it"
            raise ValueError(
                f"{self.path} holds {'a finished' if finished else 'an earlier'} run, begun "
                f"{earlier.get('started_utc', 'at an unknown time')}: {hint}, --overwrite deletes it and begins anew, "
                "--workspace NAME writes elsewhere"
            )
        if not earlier:
            raise ValueError(f"{self.path} holds no run.json, so what is there may not be a run's; write elsewhere")
        if start and Path(start).resolve().is_relative_to(self.path.resolve()):
            raise ValueError(
                f"{start} is in {self.path}, which --overwrite clears; write elsewhere with --workspace NAME"
            )
        if young:
            self.tell(f"{self.path} holds a run that ended before its first checkpoint; it begins anew")
        for old in [old for pattern in OUTPUTS for old in self.path.glob(pattern)]:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        self._remove_halves()

    def _remove_halves(self) -> None:
        """Files that were being written when a run was killed; utils.general_utils.atomic_path names them so."""
        inside = [path for name in OUTPUTS for folder in self.path.glob(name) for path in folder.rglob(".*.part")]
        for part in [*self.path.glob(".*.part"), *inside]:
            part.unlink(missing_ok=True)

    def _tell_changes(self) -> None:
        """Tells which settings differ from those of the run that is continued."""
        path = self.path / "config.yaml"
        if not path.is_file():
            return
        before, now = _flat(read_yaml(str(path))[0]), _flat(yaml.safe_load(to_yaml(self.config)))
        changed = [key for key in now if key in before and now[key] != before[key]]
        if changed:
            listed = ", ".join(f"{key} {before[key]} -> {now[key]}" for key in changed)
            self.tell(f"settings differ from those the run began with: {listed}")

    def _write(self, earlier: dict[str, Any], device: torch.device, found: Found | None) -> None:
        with atomic_path(self.path / "config.yaml") as temporary:
            temporary.write_text(to_yaml(self.config), encoding="utf-8")
        write_cfg_args(self.path / "cfg_args", self.config)
        record: dict[str, Any] = provenance(self.config, device)
        if found is None:
            record["initial_points"] = "given" if (self.path / INITIAL_POINTS).exists() else "sampled"
        else:
            earlier.pop("finished_utc", None)
            record = {**earlier, "resumed": [*earlier.get("resumed", []), {**record, "from": found[0].name}]}
        self._write_record(record)

    def _read_record(self) -> dict[str, Any]:
        """run.json; empty when it is missing or damaged."""
        try:
            record = json.loads(read_text(self.path / "run.json", MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self, record: dict[str, Any]) -> None:
        with atomic_path(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _cannot_write(self, error: OSError) -> ValueError:
        return ValueError(f"the run folder {self.path} cannot be written ({error}); choose another with --model_path")


def provenance(config: Config, device: torch.device) -> dict[str, object]:
    """What made a run: code revision, versions, machine, device, seeds, command line."""
    return {
        "started_utc": _now(),
        "command": sys.argv,
        "revision": code_revision(),
        "seed": config.seed,
        "noise_seed": config.guidance.noise_seed,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
    }


def code_revision() -> str:
    """The git revision of this checkout, with "+changes" when the tree differs from it; "unknown" without git."""
    root = Path(__file__).resolve().parent.parent
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _flat(tree: Any) -> dict[str, Any]:
    """Group.key -> value of a config.yaml."""
    flat: dict[str, Any] = {}
    for key, value in (tree if isinstance(tree, dict) else {}).items():
        flat |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
