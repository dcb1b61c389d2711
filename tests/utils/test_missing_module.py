# SPDX-License-Identifier: Apache-2.0
"""A program that is started with a Python that lacks its packages says so in one line. tests/test_install.py: installed."""

import os
import subprocess
import sys

import pytest

from tests.checkout import ROOT, files
from utils.missing_module import COMPILED, sentence_of

PROGRAMS = [
    path for path in files("*.py") if path.parent.relative_to(ROOT).as_posix() in (".", "tools", "benchmarks")
    and "program.start" in path.read_text(encoding="utf-8")
]  # fmt: skip
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_python_without_packages_is_refused_in_one_line(path) -> None:
    """-S: no package is to be seen. What needs none prints its help."""
    words = [sys.executable, "-S", str(path), "--help"]
    ended = subprocess.run(words, cwd=ROOT, env=ENVIRON, capture_output=True, text=True, timeout=300)
    if ended.returncode:
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and not ended.stdout, ended.stderr
        assert ended.stderr.startswith(f"{path.name}: the module ")
        assert ended.stderr.endswith("; run make setup once, then use .venv/bin/python\n")
    else:
        assert "usage" in ended.stdout


def test_most_programs_need_packages() -> None:
    assert {"train.py", "app.py", "tools/export.py", "benchmarks/step.py"} <= {
        path.relative_to(ROOT).as_posix() for path in PROGRAMS
    }


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_module_is_called_one(name) -> None:
    assert sentence_of(name, in_checkout=True).startswith(f"the compiled module {name} is not installed in ")
    assert sentence_of(name, in_checkout=False).endswith(f"./submodules/{COMPILED[name]}")
    assert (ROOT / "submodules" / COMPILED[name] / "pyproject.toml").is_file()


@pytest.mark.parametrize("line", ["import utils.no_such_module", "import train_no_more.gone", "raise ImportError('x')"])
def test_a_fault_of_the_program_keeps_its_stack_trace(line) -> None:
    """Of the second, another project's, no trace is left."""
    code = f"from utils.missing_module import report_missing_modules as r; r(); r()\n{line}"
    ended = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env=ENVIRON, capture_output=True, text=True)
    is_own = "train_no_more" not in line
    assert (ended.returncode, "Traceback" in ended.stderr) == ((1, True) if is_own else (2, False)), ended.stderr
