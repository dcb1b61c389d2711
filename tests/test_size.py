# SPDX-License-Identifier: Apache-2.0
"""CONTRIBUTING's limits: a file of at most 400 lines, a function of at most 60; tests and kernels are no exception."""

import ast

from tests.checkout import ROOT, files

FILE_LINES, FUNCTION_LINES = 400, 60


def too_long(text: str, is_python: bool) -> list[str]:
    """What exceeds the limits, a line each."""
    count = len(text.splitlines())
    found = [f"{count} lines"] if count > FILE_LINES else []
    for node in ast.walk(ast.parse(text)) if is_python else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = node.end_lineno - node.lineno + 1
            found += [f"{node.name}: {count} lines"] if count > FUNCTION_LINES else []
    return found


def test_no_file_is_longer_than_allowed() -> None:
    paths = files("*.py", "*.cpp", "*.h", "*.cu", "*.cuh")
    found = {path.relative_to(ROOT).as_posix(): too_long(path.read_text(encoding="utf-8"), path.suffix == ".py") for path in paths}
    assert len(found) > 600 and {name: what for name, what in found.items() if what} == {}


def test_what_is_too_long_is_noticed() -> None:
    function = "def long():\n" + "    x = 1\n" * FUNCTION_LINES
    assert too_long("x = 1\n" * (FILE_LINES + 1), True) == ["401 lines"] == too_long("int x;\n" * 401, False)
    assert too_long(function, True) == ["long: 61 lines"] and too_long(function.replace("    x = 1\n", "", 1), True) == []
