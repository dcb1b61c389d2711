# SPDX-License-Identifier: Apache-2.0
"""What a GPU, its torch and the two extensions are, as JSON: `python -m evaluation.gpu_check.device cuda`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import json
import subprocess
from typing import Any

import torch

from trainer.backends import backends
from utils.device import resolve_device


def driver() -> str:
    """The driver's version, as nvidia-smi prints it."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def facts(name: str) -> dict[str, Any]:
    """Of the device called `name`. Raises ValueError where it is not available."""
    device = resolve_device(name)
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, **backends("auto", device)}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "architectures of torch": torch.cuda.get_arch_list(),
            "driver": driver(),
            "free_gb": round(free / 1e9, 1),
            "total_gb": round(total / 1e9, 1),
            "gpus": torch.cuda.device_count(),
        }
    return found


@program.refuses("device", ValueError)
def main(argv: list[str]) -> int:
    """Prints the facts."""
    print(json.dumps(facts(argv[0])))
    return 0


if __name__ == "__main__":
    program.run(main)
