# SPDX-License-Identifier: Apache-2.0
"""docs/upstream.md points at files and names that exist here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = [line for line in (ROOT / "docs" / "upstream.md").read_text().splitlines() if line.startswith("| ")]
OURS = sorted({token for row in ROWS for token in re.findall(r"`([^`]+)`", row.strip("| ").split(" | ", 1)[-1])})
SOURCES = "\n".join(
    path.read_text()
    for room in ("train.py", "arguments", "cograd", "gaussian_renderer", "guidance", "scene", "submodules", "toy", "trainer", "utils", "viewer")
    for path in ([ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py")))
)


@pytest.mark.parametrize("token", [token for token in OURS if "/" in token or token.endswith((".py", ".yml"))])
def test_files_are_there(token: str) -> None:
    assert (ROOT / token).exists()


@pytest.mark.parametrize("token", [token for token in OURS if re.fullmatch(r"\.?\w+(\.\w+)*(\(.*\))?", token) and not token.endswith((".py", ".yml"))])
def test_names_are_there(token: str) -> None:
    name = token.split("(")[0].split(".")[-1]
    assert re.search(rf"\b{name}\b", SOURCES)


def test_the_map_was_read() -> None:
    assert len(OURS) > 60 and {"scene/ply.py", "RandomStreams", "NetworkGui"} <= set(OURS)
