# SPDX-License-Identifier: Apache-2.0
"""No source file writes a text over another one piece by piece: a full disk would leave half of the new one and none of the old."""

import ast

from tests.checkout import ROOT, files

INTO_A_NEW_FOLDER = {
    "toy/training/card.py", "toy/training/export.py", "toy/training/tokenizer.py", "benchmarks/mesh.py", "benchmarks/random_sd21.py",
    "benchmarks/web_page.py", "tools/compile_sm70.py",
}  # fmt: skip
OTHERS = {
    "arguments/cfg_args.py",  # its caller gives it a temporary file
    "submodules/diff-gaussian-rasterization/cuda_build.py",  # the report of a build, beside what is built
    "tools/lock_requirements.py",  # runs without the program's packages; Git has the old locks
}


def _writes(source: str) -> list[int]:
    """Lines with a `write_text`, but on what `atomic_path` has given, which is called `temporary`."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f.lineno for f in called if isinstance(f, ast.Attribute) and f.attr == "write_text" and ast.unparse(f.value) != "temporary"]


def test_texts_are_written_whole_or_not_at_all() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files("*.py")}
    found = {name: lines for name, source in sources.items() if (lines := _writes(source)) and not name.startswith("tests/")}
    assert found.keys() == INTO_A_NEW_FOLDER | OTHERS, found
