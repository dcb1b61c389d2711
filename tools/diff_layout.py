# SPDX-License-Identifier: Apache-2.0
"""Where each file and name of LucidDreamer is here: python tools/diff_layout.py UPSTREAM_CHECKOUT

The map is docs/upstream.md. Both trees are parsed and never run. A name is a function, a class or a method
(Class.method) of one file. Kept: the same name in the same file. Moved: the same name in a file that the map gives for
it. Mapped: the map lists it. Not mapped: the map is silent. Then the files that are new here. Exit status 1 when the
map names what is not there, in either tree; submodules may be missing from the checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "upstream.md"
NOT_SOURCES = {"tests", "build", ".venv", "venv", "output"}
SUFFIXES = (".py", ".yaml", ".yml", ".txt", ".lock", ".sh", ".md")
NAME = re.compile(r"\w+(?:\.\w+)*")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class MapRow:
    """One line of the map: files with the names in them, upstream's and ours; "same" stands for upstream's names."""

    upstream: dict[str, list[str]]
    ours: dict[str, list[str]]
    here: str  # text of our cell
    notes: list[str]  # what the last cell quotes


@dataclass(frozen=True)
class Line:
    """One upstream name, or a whole file where `name` is empty."""

    file: str
    name: str
    state: str  # kept, moved, mapped, not mapped
    here: str


def read_map(text: str) -> list[MapRow]:
    """The rows of "Files and names". ValueError for a document without that table."""
    _, found, rest = text.partition("## Files and names")
    if not found:
        raise ValueError(f'{MAP} has no section "Files and names"; expected the map of upstream there')
    lines = [line for line in rest.split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [_row(line.strip().strip("|").split(" | ")) for line in lines[1:]]


def _row(cells: Sequence[str]) -> MapRow:
    upstream, here = _files_and_names(cells[0], []), cells[1].strip()
    ours = _files_and_names(here, list(upstream))
    if here.startswith("same"):
        ours = {**ours, **{file: names + ours.get(file, []) for file, names in upstream.items()}}
    return MapRow(upstream, ours, here, re.findall(r"`([^`]+)`", " ".join(cells[2:])))


def _files_and_names(cell: str, files: list[str]) -> dict[str, list[str]]:
    """Quoted files of a cell -> the names quoted after each; names before any file are those of `files`."""
    found: dict[str, list[str]] = {}
    for token in re.findall(r"`([^`]+)`", cell):
        if "/" in token or token.endswith(SUFFIXES):
            files = [token]
            found.setdefault(token, [])
        else:
            for file in files:
                found.setdefault(file, []).append(token)
    return found


def defined(path: Path) -> set[str]:
    """Functions, classes and methods (Class.method) of a source file; empty for what does not parse."""
    return {name for name, is_definition in _names(path) if is_definition}


def _names(path: Path) -> set[tuple[str, bool]]:
    """(name, whether it is a definition) of a file: definitions, and attributes of classes that are assigned there."""
    found: set[tuple[str, bool]] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DEFINITIONS):
                found.add((prefix + child.name, True))
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                found.add((prefix + child.target.id, False))
            elif isinstance(child, ast.stmt | ast.ExceptHandler):
                visit(child, prefix)

    try:
        visit(ast.parse(_text(path)), "")
    except (SyntaxError, ValueError, RecursionError):
        return set()
    return found


def sources(tree: Path) -> dict[str, set[str]]:
    """Path below `tree` -> what it defines, of every Python file but tests, builds and submodules."""
    return {path.as_posix(): defined(tree / path) for path in _source_paths(tree)}


def _source_paths(tree: Path) -> list[Path]:
    paths = [path.relative_to(tree) for path in sorted(tree.rglob("*.py"))]
    return [p for p in paths if not NOT_SOURCES & set(p.parts) and p.parts[0] != "submodules"]


def lines(rows: Sequence[MapRow], upstream: dict[str, set[str]], ours: dict[str, set[str]]) -> list[Line]:
    """A line for each of upstream's files and its names."""
    found = []
    for file, names in upstream.items():
        own = [row for row in rows if any(_covers(pattern, file) for pattern in row.upstream)]
        here = "; ".join(row.here for row in own)
        state = "kept" if file in ours else "mapped" if own else "not mapped"
        found.append(Line(file, "", state, file if state == "kept" else here))
        found += [Line(file, name, *_state(file, name, own, ours)) for name in sorted(names)]
    return found


def _state(file: str, name: str, rows: Sequence[MapRow], ours: dict[str, set[str]]) -> tuple[str, str]:
    """State and place of one name of a file that these rows are about."""
    if name in ours.get(file, set()):
        return "kept", file
    listed = [row for row in rows if any(_is_listed(name, names) for names in row.upstream.values())]
    for place in (place for row in listed or rows for place in row.ours):
        if name in ours.get(place, set()):
            return "moved", place
    if listed:
        return "mapped", "; ".join(row.here for row in listed)
    return "not mapped", f"its file: {'; '.join(row.here for row in rows)}" if rows else "-"


def _is_listed(name: str, names: Sequence[str]) -> bool:
    """Whether the map lists a name, a method by itself or as Class.method."""
    return name in names or ("." in name and name.rpartition(".")[2] in names)


def _covers(pattern: str, file: str) -> bool:
    """Whether a path of the map, a file or a folder, is about this file."""
    return file == pattern or file.startswith(pattern.rstrip("/") + "/")


def faults(rows: Sequence[MapRow], checkout: Path, root: Path) -> Iterator[str]:
    """What the map names and a tree lacks, a sentence each."""
    words = {word for path in _source_paths(root) for word in re.findall(r"\w+", _text(root / path))}
    for row in rows:
        yield from _missing(row.upstream, checkout)
        yield from _missing(row.ours, root)
        for token in row.notes:
            if "/" in token and not [*root.glob(token)]:
                yield f"{token} is not in {root}"
            elif NAME.fullmatch(token) and not token.endswith(SUFFIXES) and token.split(".")[-1] not in words:
                yield f"{token} is not in our sources"


def _missing(files: dict[str, list[str]], tree: Path) -> Iterator[str]:
    """Files, and names in them, that a tree lacks; the folders of Git submodules may be missing or empty."""
    for pattern, names in files.items():
        paths = [*tree.glob(pattern)]
        if not paths and not pattern.startswith("submodules/"):
            yield f"{pattern} is not in {tree}"
        there = {name for path in paths if path.suffix == ".py" for name, _ in _names(path)}
        there |= {name.rpartition(".")[2] for name in there}
        yield from (f"{pattern} of {tree} defines no {name}" for name in names if paths and name not in there)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def new_files(upstream: dict[str, set[str]], ours: dict[str, set[str]]) -> list[str]:
    """Ours that upstream has no file of the same path for."""
    return [file for file in ours if file not in upstream]


@program.refuses("diff_layout", ValueError)
def main(argv: list[str]) -> int:
    """Exit status: 0 the map is right, 1 it names what is not there, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, metavar="UPSTREAM_CHECKOUT")
    args = parser.parse_args(argv)
    if not (args.checkout / "train.py").is_file():
        raise ValueError(f"{args.checkout} holds no train.py; give a checkout of LucidDreamer")
    rows = read_map(MAP.read_text(encoding="utf-8"))
    upstream, ours = sources(args.checkout), sources(ROOT)
    listed_lines = lines(rows, upstream, ours)
    print("| upstream file | name | state | here |\n|---|---|---|---|")
    for line in listed_lines:
        print(f"| {line.file} | {line.name or '(the file)'} | {line.state} | {line.here} |")
    print("\nNew here: " + ", ".join(new_files(upstream, ours)))
    counts = Counter(line.state for line in listed_lines if line.name)
    print("\nNames: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    wrong = list(faults(rows, args.checkout, ROOT))
    print("\n".join(f"diff_layout: {fault}" for fault in wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    program.run(main)
