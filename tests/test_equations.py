# SPDX-License-Identifier: Apache-2.0
"""docs/equations.md names functions and tests that exist, and lists every DECISION and DEVIATION of the tree."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "equations.md").read_text()
ROOMS = ("arguments", "cograd", "gaussian_renderer", "guidance", "scene", "utils")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT)


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_what_is_named_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined


def _markers() -> set[tuple[str, str]]:
    """(file, text up to a full stop at the end of a line) of every marker in the tree."""
    found = set()
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for match in re.finditer(r"(?:DECISION|DEVIATION[^:\n]*):\s+(.+?\.)(?=\n)", path.read_text(), re.DOTALL):
            found.add((str(path.relative_to(ROOT)), re.sub(r"\s*\n\s*#?\s*", " ", match[1])))
    return found


def test_every_marker_is_listed_and_every_listed_one_is_there() -> None:
    listed = set(re.findall(r"^\| `([\w/]+\.py)` \| (.+?) \|$", DOCUMENT, re.MULTILINE))
    assert _markers() and listed == _markers()
