# SPDX-License-Identifier: Apache-2.0
"""What made a run: code revision, versions, machine, device, backends, seeds, command line."""

import platform
import sys
from datetime import UTC, datetime
from importlib import metadata

import torch

from arguments import Config
from trainer.backends import backends
from utils.machine import machine
from utils.revision import code_revision

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
