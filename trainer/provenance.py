# SPDX-License-Identifier: Apache-2.0
"""What made a run: code revision, versions, machine, device, backends, seeds, command line."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from arguments import Config
from trainer.backends import backends
from utils.machine import machine

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


def provenance(config: Config, device: torch.device) -> dict[str, object]:
    """What made a run: code revision, versions, machine, device, backends, seeds, command line."""
    return {
        "started_utc": now(),
        "command": sys.argv,
        "revision": code_revision(),
        "seed": config.seed,
        "noise_seed": config.guidance.noise_seed,
        "device": machine(device),
        **backends(config.pipeline.rasterizer, device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
    }


def code_revision() -> str:
    """The git revision of this checkout, with "+changes" when the tree differs from it; "unknown" without git.

    An installed program is no checkout, even inside another project's.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of the packages that numbers depend on."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
