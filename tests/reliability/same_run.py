# SPDX-License-Identifier: Apache-2.0
"""Whether two run folders hold the same run: every file byte for byte, but for what tells times, machines and paths."""

from __future__ import annotations

import json
from pathlib import Path

from tests.trees import equal
from trainer.run_log import read_steps
from utils.tree_file import load_tree

OF_THE_PROCESS = ("run.json", "run.lock", "config.yaml", "cfg_args")  # when, where and into which folder it ran


def differences(first: Path, second: Path) -> list[str]:
    """The files that only one folder has or that differ, by name; TensorBoard's files and the times of phases are left out."""
    names = {path.relative_to(folder) for folder in (first, second) for path in folder.rglob("*") if path.is_file()}
    compared = [name for name in sorted(names) if str(name) not in OF_THE_PROCESS and "tfevents" not in name.name]
    return [str(name) for name in compared if not _same(first / name, second / name)]


def log_lines(folder: Path) -> list[dict]:
    """The steps of log.jsonl without the times and the memory, which are the process's."""
    lines = read_steps(folder / "log.jsonl")
    return [{name: value for name, value in line.items() if name not in ("phase_ms", "peak_mb")} for line in lines]


def events(folder: Path) -> list[dict]:
    """The lines of log.jsonl that are no steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "event" in line]


def _same(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    if first.name == "log.jsonl":
        return log_lines(first.parent) == log_lines(second.parent) and events(first.parent) == events(second.parent)
    if first.suffix == ".safetensors":
        return equal(_of_the_run(load_tree(first)), _of_the_run(load_tree(second)))
    return first.read_bytes() == second.read_bytes()


def _of_the_run(tree: dict) -> dict:
    """Without the log's length in bytes, which depends on how many digits the times have, and without id and settings."""
    log = {name: value for name, value in tree["log"].items() if name != "bytes"}
    return {**tree, "log": log, "run": None}
