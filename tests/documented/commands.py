# SPDX-License-Identifier: Apache-2.0
"""The commands that the documents name: fenced shell blocks, inline code, usage lines of docstrings."""

import ast
import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/results/*.md", "assets/*/README.md", "tests/data/README.md")
    for path in ROOT.glob(pattern)
)
PROGRAMS = ("python", "pytest", "torchrun", "make", "conda", "pip", "ray", "git", "cograd3d-train", "cograd3d-export")
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`((?:[^`\n]|\n(?!\n))+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command and where it is written: its words, `.venv/bin/` and the shell's comment taken away."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a Markdown file."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """Every piece of inline code of a Markdown file, on one line each."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in SPAN.findall(prose)]


def commands() -> list[Command]:
    """Every command once for each page that has it."""
    found: dict[Command, None] = {}
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        lines = [line for language, text in fences(page) if language in ("sh", "bash") for line in _lines(text)]
        for line in [*lines, *filter(_is_command, spans(page))]:
            found.update(dict.fromkeys(parts(name, line)))
    for path, usage in usages():
        found.update(dict.fromkeys(parts(path, usage)))
    return list(found)


def usages() -> list[tuple[str, str]]:
    """(file, usage line) of the module docstrings of programs; brackets of what may be left out are taken away."""
    found = []
    sources = [
        ROOT / "train.py",
        *(path for room in ("tools", "benchmarks", "examples") for path in (ROOT / room).glob("*.py")),
    ]
    for path in sorted(path for path in [*sources, *ROOT.glob("app.py")] if path.is_file()):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = path.relative_to(ROOT).as_posix()
        for line in text.splitlines():
            if match := re.search(rf"python (?:-m )?(?:{re.escape(name)}|{name[:-3].replace('/', '.')})[^`]*", line):
                usage = re.split(r"   +|\.$", match[0])[0]
                usage = re.sub(r"\[[A-Z]+ \.\.\.\]", "", usage)  # more of the same
                found.append((name, re.sub(r"[\[\]]|\.\.\.(?=\s|$|\])", "", usage)))
    return found


def _lines(block: str) -> list[str]:
    """The command lines of a shell block: those after `$ ` where it has such lines, else all."""
    joined = block.replace("\\\n", " ").splitlines()
    prompted = [line[2:] for line in joined if line.startswith("$ ")]
    return prompted or [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def _is_command(span: str) -> bool:
    first, _, rest = span.removeprefix(".venv/bin/").partition(" ")
    return bool(rest) and (first in PROGRAMS or (first.endswith(".py") and "::" not in span))


def parts(page: str, line: str) -> list[Command]:
    """The commands of one line, which `&&` joins; `page` is where it is written."""
    found = []
    for part in re.split(r"\s(?:&&|\|\|)\s", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if not words:
            continue
        words[0] = words[0].removeprefix(".venv/bin/")
        if words[0].endswith(".py"):
            words[:1] = ["python", _path_of(words[0])]
        found.append(Command(page, tuple(words)))
    return found


@functools.cache
def _path_of(script: str) -> str:
    """tools/janus.py for janus.py; as it stands where no such file is known."""
    rooms = ("", "tools/", "benchmarks/")
    return next((room + script for room in rooms if (ROOT / room / script).is_file()), script)
