# SPDX-License-Identifier: Apache-2.0
"""Every command line of the project ends by Ctrl-C with one line, however early it comes."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from tests.checkout import ROOT, files
from tools import clean
from utils.revision import version_line

PACKAGES = sorted({path.relative_to(ROOT).parts[0] for path in files("*.py")} - {"submodules", "examples"} - {path.name for path in ROOT.glob("*.py")})
MAIN = "__name__ == '__main__'"


def _main_blocks(path: Path) -> list[ast.If]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [statement for statement in body if isinstance(statement, ast.If) and ast.unparse(statement.test) == MAIN]


COMMANDS = [path for path in files("*.py") if _main_blocks(path)]

# A finder that Python asks first for every module. It sends SIGINT when the command line imports something that is neither of
# the standard library nor utils.program, and at the latest with the first import after `from utils import program`.
INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(name, path=None, target=None):
        own = vars(sys.modules["__main__"])
        if name.partition(".")[0] not in sys.stdlib_module_names | {"utils"} and "sys" in own or "program" in own:
            sys.meta_path.remove(Interrupt)
            os.kill(os.getpid(), signal.SIGINT)
            print("not interrupted", name, file=sys.stderr)

sys.meta_path.insert(0, Interrupt)
"""


def _words(path: Path) -> list[str]:
    name = path.relative_to(ROOT)
    return ["-m", ".".join(name.parent.parts)] if path.name == "__main__.py" else [str(path)]


def test_command_lines_were_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in COMMANDS}
    assert {"train.py", "app.py", "tools/export.py", "benchmarks/step.py", "tests/fuzzing/__main__.py"} <= names
    assert any(name.startswith("examples/") for name in names) and "tests/conftest.py" not in names


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_interrupt_during_the_imports_is_one_line(tmp_path, path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED, encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, *_words(path)], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300
    )
    told = result.stderr.partition("during start-up")[0]
    assert (result.returncode, told) == (130, f"{path.name}: Received SIGINT "), result.stderr
    assert result.stdout == "" and result.stderr.count("\n") == 1


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_answers_version_before_its_imports(tmp_path, path) -> None:
    for name in ("torch", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')", encoding="utf-8")
    words = [sys.executable, *_words(path), "--version"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{version_line()}\n", "")


@pytest.mark.parametrize("main", [train.main, clean.main], ids=["train", "clean"])
def test_a_main_that_is_called_from_python_answers_it_too(main, capsys) -> None:
    for word, told in (("--version", version_line()), ("--help", "--version")):
        with pytest.raises(SystemExit, match="0"):
            main([word])
        assert told in capsys.readouterr().out


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_is_run_by_program(path) -> None:
    """Which ends it without a stack after the imports, and turns off streams that nobody reads."""
    (statement,) = _main_blocks(path)[-1].body
    assert ast.unparse(statement).startswith("program.run(main")


TOOLS = [path for path in COMMANDS if path.parent in (ROOT / "tools", ROOT / "benchmarks")]
OF_TOOLS = [path for path in TOOLS if path.parent.name == "tools"]


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_tool_or_benchmark_says_in_a_line_what_is_wrong_and_which_file_cannot_be_written(path) -> None:
    (main,) = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if getattr(node, "name", "") == "main"]
    words = " ".join(map(ast.unparse, main.decorator_list))
    assert words.startswith(f"program.refuses('{path.stem}'") and "OSError" in words


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_tool_or_benchmark_prints_its_help_and_does_nothing_else(path, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"{path.parent.name}.{path.stem}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    printed = capsys.readouterr()
    assert module.__doc__.split()[:5] == printed.out.partition("\n\n")[2].split()[:5] and not printed.err and not list(tmp_path.iterdir())


NUMBERS_CHECKED_ELSEWHERE = {
    "export": "pad_sh spz_version faces texture_px grid",  # export/options.py
    "train_toy_prior": "seed minutes steps batch lr channels",  # toy/training/settings.py
    "reproduce": "seeds jobs count tflops",  # evaluation/reproduction/order.py
}
ANY_NUMBER = ("choice_seed", "iteration")


@pytest.mark.parametrize("path", OF_TOOLS, ids=lambda path: path.stem)
def test_a_tool_bounds_its_numbers(path) -> None:
    """Without a most and a least, "inf", "nan" and -5 are silent or a stack trace: program.check_bounds, check_size."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    types = {"type=int", "type=float"}
    given = {
        node.args[0].value.removeprefix("--")
        for node in nodes
        if isinstance(node, ast.Call) and types & set(map(ast.unparse, node.keywords))
    }
    bounded = {key.value for node in nodes if isinstance(node, ast.Dict) for key in node.keys if isinstance(key, ast.Constant)}
    sizes = {ast.unparse(node.args[0])[3:-1] for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "check_size"}
    elsewhere = {"view_px"} if path.stem == "reproduce" else set()
    elsewhere |= set(NUMBERS_CHECKED_ELSEWHERE.get(path.stem, "").split())
    assert given - bounded - sizes - elsewhere <= set(ANY_NUMBER)


@pytest.mark.parametrize("path", OF_TOOLS, ids=lambda path: path.stem)
def test_a_tool_does_not_pass_over_a_flag_that_it_does_not_have(path, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"tools.{path.stem}").main
    try:
        status = main(["--no_such_flag", "1"])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and capsys.readouterr().err and not list(tmp_path.iterdir())


WRITERS = {"score_toy": ["no_run", "--json"], "evaluate": ["no_run", "--json"], "compare_upstream": ["no_run", "no_run", "--html"]}
"""Tools with a file of results as a flag, and words up to its name."""


@pytest.mark.parametrize("place", [".", "file/x.json"])
@pytest.mark.parametrize("tool", WRITERS)
def test_a_file_that_cannot_be_written_is_named_before_anything_is_read(tmp_path, monkeypatch, capsys, tool, place) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module(f"tools.{tool}").main([*WRITERS[tool], place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert place in line and "no_run" not in line


@pytest.mark.parametrize("path", [path for path in COMMANDS if path.parent != ROOT / "examples" and path.stem != "digests"], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_line_finds_this_tree_first(tmp_path, path) -> None:
    """Packages of the same names on the path, from a folder elsewhere, and with the script's folder left out of the path."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('another package')", encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    if path.name == "__main__.py":
        environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(tmp_path)])
    words = [sys.executable, *_words(path), "--version"]
    result = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{version_line()}\n", "")



def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without __init__.py gives way to a package of its name that stands behind it on the path."""
    assert {"utils", "trainer", "tools", "apps", "benchmarks", "tests"} <= set(PACKAGES)
    assert [name for name in PACKAGES if not (ROOT / name / "__init__.py").is_file()] == []
