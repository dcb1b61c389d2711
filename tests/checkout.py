# SPDX-License-Identifier: Apache-2.0
"""The files of this checkout, without what was built, installed or trained in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = {"build", "output", "venv"}  # and what begins with a dot


def files(*patterns: str) -> list[Path]:
    """Those whose names match one of the patterns, such as "*.py"."""
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in NOT_OURS and path.name[0] != "."]
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    paths |= {path for room in rooms for pattern in patterns for path in room.rglob(pattern)}
    return sorted(path for path in paths if "build" not in path.relative_to(ROOT).parts)
