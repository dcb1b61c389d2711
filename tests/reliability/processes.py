# SPDX-License-Identifier: Apache-2.0
"""train.py in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S
from tests.reliability.crash import ROOT, words
from tests.reliability.forks import forked_process

PLAIN = {
    "iterations": 6, "test_ratio": 1, "save_ratio": 1, "vis_interval": 100, "densify_until_iter": 0, "save_process": False,
    "CoGradParams.enabled": False, "quiet": False,
}  # fmt: skip
"""A run that writes little."""


def started(folder: Path, *python: str, settings: dict[str, Any] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """`python train.py` of a small run; options of subprocess.Popen."""
    argv = words(folder, **PLAIN | (settings or {}))
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "0", **options.pop("env", {})}
    return subprocess.Popen([sys.executable, *python, str(ROOT / "train.py"), *argv], cwd=ROOT, env=environ, **options)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, *(text.decode() if text else "" for text in (out, err))


def forked(work: Any, *args: Any) -> int:
    """work(*args) in a process that has the imports behind it; its exit status, negative after a signal."""
    process = forked_process(work, *args)
    process.join(PATIENCE_S)
    assert process.exitcode is not None, "it has not ended"
    return process.exitcode
