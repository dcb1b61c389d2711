# SPDX-License-Identifier: Apache-2.0
"""A knob that nothing reads is a lie: every key is read somewhere in the program, or is marked `unread`."""

import ast
from pathlib import Path

import pytest

from arguments import GROUPS, Config
from arguments.declare import keys_of

ROOT = Path(__file__).parents[2]
ROOMS = ("train.py", "arguments", "cograd", "distillation", "gaussian_renderer", "guidance", "scene", "trainer", "utils", "viewer")


def attributes_read():
    """Names of all attributes that the program reads, as `x.name` or by a text that is the name."""
    files = [path for room in ROOMS for path in ([ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py")))]
    names = set()
    for path in files:
        if path.name == "no_effect.py":  # it asks which keys are read
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.parent.name == "guidance":
                names.add(node.value)
    return names - {"eval"}  # torch's method, not ModelParams.eval


READ = attributes_read()
KEYS = [(group.__name__, name, spec.unread) for group in (Config, *(g for _, g in GROUPS.values())) for name, (_, spec, _) in keys_of(group).items() if name != "opt"]  # fmt: skip


@pytest.mark.parametrize("group, name, unread", KEYS)
def test_a_key_is_read_or_marked_unread(group, name, unread):
    assert (name in READ) != unread, f"{group}.{name}: unread={unread}"
