# SPDX-License-Identifier: Apache-2.0
"""Counts in messages agree with their nouns."""

import ast
import itertools
import re
from pathlib import Path

import pytest

from utils.wording import counted

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("arguments", "cograd", "distillation", "gaussian_renderer", "guidance", "scene", "utils")
COUNTED = re.compile(
    r" (steps|views|times|Gaussians|regions|timestep bins|levels|GPUs|layers|weights|more fields|timesteps|words)\b| \w+\(s\)"
)
ALWAYS_SEVERAL = {"points", "' and '.join(map(str, counts))"}
"""More Gaussians than max_points, which is 1 or more; several numbers."""


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1200, "1,200 steps")]
)
def test_a_noun_agrees_with_its_count(count, told) -> None:
    assert counted(count, "step") == told


def test_a_noun_may_have_a_plural_of_its_own() -> None:
    assert [counted(n, "process", "processes") for n in (1, 2)] == ["1 process", "2 processes"]


def _bare_counts(source: str) -> list[str]:
    """Variable counts in f-strings that stand before a plural noun of their own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for value, text in itertools.pairwise(parts):
            if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant) and COUNTED.match(str(text.value)):
                name = ast.unparse(value.value)
                if not name.isupper() and name not in ALWAYS_SEVERAL:
                    found.append(f"{name}{str(text.value)[:20]}")
    return found


def test_no_message_says_1_steps() -> None:
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): _bare_counts(path.read_text(encoding="utf-8")) for path in paths}
    assert len(found) > 100 and {name: counts for name, counts in found.items() if counts} == {}


def test_a_bare_count_is_found() -> None:
    assert _bare_counts('f"{n} steps"') == ["n steps"] and _bare_counts('f"{MANY} steps, {counted(n, \'view\')}"') == []
