# SPDX-License-Identifier: Apache-2.0
"""Run folders as runs leave them."""

import json
from pathlib import Path

import pytest
import torch

from arguments.load import load_config
from trainer.run_folder import RunFolder

CPU = torch.device("cpu")


def opened(folder: Path, *flags: str, tell=pytest.fail) -> RunFolder:
    return RunFolder(load_config(["--text", "x", "--model_path", str(folder), *flags]), tell)


def begin(run: RunFolder):
    """Looks, then writes, as a run does; returns the checkpoint that was found."""
    found = run.find()
    run.begin(CPU)
    return found


def earlier_run(folder: Path, steps: int = 1, finished: bool = False) -> None:
    """What a run of some steps leaves."""
    with opened(folder) as run:
        begin(run)
        (folder / "init_points3d.ply").write_text("sampled")
        (folder / "log.jsonl").write_text('{"iteration": 1}\n' * steps)
        (folder / "point_cloud").mkdir()
        (folder / "point_cloud" / "p.ply").write_text("cloud")
        if finished:
            run.finished({}, steps)


def run_json(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}
