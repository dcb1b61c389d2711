# SPDX-License-Identifier: Apache-2.0
"""A run folder that can be handed to another person: resolved config, upstream's cfg_args, versions and seeds."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from arguments import Config
from arguments.cfg_args import write_cfg_args
from arguments.load import to_yaml

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


def prepare_run_folder(folder: Path, config: Config, device: torch.device) -> None:
    """Creates the folder and writes config.yaml (feed it back to --opt for the same run), cfg_args and run.json.

    Raises ValueError when the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        write_cfg_args(folder / "cfg_args", config)
        (folder / "run.json").write_text(json.dumps(provenance(config, device), indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"the run folder {folder} cannot be written ({error}); choose another with --model_path"
        ) from error


def provenance(config: Config, device: torch.device) -> dict[str, object]:
    """What made a run: code revision, versions, machine, device, seeds, command line."""
    return {
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
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
        "versions": {name: _version(name) for name in PACKAGES},
    }


def code_revision() -> str:
    """The git revision of this checkout, with "+changes" when the tree differs from it; "unknown" without git."""
    root = Path(__file__).resolve().parent.parent
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
