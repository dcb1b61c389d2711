# SPDX-License-Identifier: Apache-2.0
"""A program that is started with a Python that lacks its packages says so in one line. tests/test_install.py: installed."""

import os
import subprocess
import sys
import tomllib

import pytest

from tests.checkout import ROOT, files
from utils.missing_module import COMPILED, how_to_install, sentence_of

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


def test_one_sentence_says_how_extras_are_installed() -> None:
    """Here by a file, where the program is installed by an extra that it declares; no other module names the file."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    for extra, declared in extras.items():
        assert declared["file"] == [f"requirements-{extra}.txt"] and (ROOT / declared["file"][0]).is_file()
        assert how_to_install(extra) == f"pip install -r requirements-{extra}.txt"
        assert how_to_install(extra, in_checkout=False) == f"pip install 'cograd3d[{extra}]'"
    program = [path for path in files("*.py") if path.parts[len(ROOT.parts)] not in ("tests", "benchmarks")]
    assert [path.name for path in program if "install -r requirements" in path.read_text()] == ["missing_module.py"]


@pytest.mark.parametrize("line", ["import utils.no_such_module", "import train_no_more.gone", "raise ImportError('x')"])
def test_a_fault_of_the_program_keeps_its_stack_trace(line) -> None:
    """Of the second, another project's, no trace is left."""
    code = f"from utils.missing_module import report_missing_modules as r; r(); r()\n{line}"
    ended = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env=ENVIRON, capture_output=True, text=True)
    is_own = "train_no_more" not in line
    assert (ended.returncode, "Traceback" in ended.stderr) == ((1, True) if is_own else (2, False)), ended.stderr
