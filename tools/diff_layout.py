# SPDX-License-Identifier: Apache-2.0
"""Where each file and name of LucidDreamer is here: python tools/diff_layout.py UPSTREAM_CHECKOUT

The map is docs/upstream.md. It is checked against both trees, whose sources are parsed and never run. Kept: the same
name in the same file. Moved: the same name in another file. Mapped: another name, as the map says. Not mapped: the map
is silent. Then the files that are new here. Exit status 1 when the map names what is not there.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "upstream.md"
NOT_SOURCES = {"tests", "build", ".venv", "venv", "output"}
FILE = re.compile(r"[\w./*-]+/[\w.*-]*|[\w*-]+\.\w+")
NAME = re.compile(r"\.?\w+(?:\.\w+)*")


@dataclass
class MapRow:
    """One line of the map: upstream's files with the names that it lists, and the text of our cell."""

    files: dict[str, list[str]]
    here: str
    ours: list[str] = field(default_factory=list)  # what our cells quote


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
    files: dict[str, list[str]] = {}
    current: list[str] = []
    for token in re.findall(r"`([^`]+)`", cells[0]):
        if FILE.fullmatch(token) or (not files and token.islower() and "_" not in token):  # a room, such as `arguments`
            current = files.setdefault(token, [])
        else:
            current.append(token)
    return MapRow(files, cells[1].strip(), re.findall(r"`([^`]+)`", " ".join(cells[1:])))


def defined(path: Path) -> dict[str, bool]:
    """Functions, classes and methods of a source file -> whether at its top level; empty for what does not parse."""
    try:
        tree = ast.parse(_text(path))
    except (SyntaxError, ValueError, RecursionError):
        return {}
    top = {id(node) for node in tree.body}
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    return {node.name: id(node) in top for node in reversed([*ast.walk(tree)]) if isinstance(node, kinds)}


def sources(tree: Path) -> dict[str, dict[str, bool]]:
    """Path below `tree` -> what it defines, of every Python file but tests, builds and submodules."""
    paths = [path.relative_to(tree) for path in sorted(tree.rglob("*.py"))]
    kept = [p for p in paths if not NOT_SOURCES & set(p.parts) and p.parts[0] != "submodules"]
    return {path.as_posix(): defined(tree / path) for path in kept}


def lines(rows: Sequence[MapRow], upstream: dict[str, dict[str, bool]], ours: dict[str, dict[str, bool]]) -> list[Line]:
    """A line for each of upstream's files and its top-level names."""
    homes: dict[str, str] = {name: file for file, names in reversed(ours.items()) for name in names}
    found = []
    for file, names in upstream.items():
        own = [row for row in rows if any(_covers(pattern, file) for pattern in row.files)]
        here = "; ".join(row.here for row in own)
        state = "kept" if file in ours else "mapped" if own else "not mapped"
        found.append(Line(file, "", state, file if state == "kept" else here))
        for name in sorted(name for name, top in names.items() if top):
            listed = [row.here for row in own if any(name in listed for listed in row.files.values())]
            found.append(Line(file, name, *_state(file, name, ours, homes, listed, here)))
    return found


def _state(
    file: str, name: str, ours: dict[str, dict[str, bool]], homes: dict[str, str], listed: Sequence[str], here: str
) -> tuple[str, str]:
    if name in ours.get(file, {}):
        return "kept", file
    if name in homes:
        return "moved", homes[name]
    if listed:
        return "mapped", "; ".join(listed)
    return "not mapped", f"its file: {here}" if here else "-"


def _covers(pattern: str, file: str) -> bool:
    """Whether a path of the map, a file or a room, is about this file."""
    return file == pattern or file.startswith(pattern.rstrip("/") + "/")


def faults(rows: Sequence[MapRow], checkout: Path, root: Path) -> Iterator[str]:
    """What the map names and a tree lacks, a sentence each."""
    words = set(re.findall(r"\w+", "\n".join(_text(root / file) for file in sources(root))))
    for row in rows:
        for pattern, names in row.files.items():
            there = {name for path in checkout.glob(pattern) for file in _python(path) for name in defined(file)}
            if not [*checkout.glob(pattern)]:
                yield f"{pattern} is not in {checkout}"
            else:
                yield from (f"{pattern} of {checkout} defines no {name}" for name in names if name not in there)
        for token in row.ours:
            if "/" in token or token.endswith((".py", ".yml")):
                if not [*root.glob(token)]:
                    yield f"{token} is not here"
            elif NAME.fullmatch(token) and token.split(".")[-1] not in words:
                yield f"{token} is not in our sources"


def _python(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def new_files(upstream: dict[str, dict[str, bool]], ours: dict[str, dict[str, bool]]) -> list[str]:
    """Ours that upstream has no file of the same path for."""
    return [file for file in ours if file not in upstream]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 the map is right, 1 it names what is not there, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, metavar="UPSTREAM_CHECKOUT")
    args = parser.parse_args(argv)
    if not (args.checkout / "train.py").is_file():
        print(f"diff_layout: {args.checkout} holds no train.py; give a checkout of LucidDreamer", file=sys.stderr)
        return 2
    rows = read_map(MAP.read_text(encoding="utf-8"))
    upstream, ours = sources(args.checkout), sources(ROOT)
    told = lines(rows, upstream, ours)
    print("| upstream file | name | state | here |\n|---|---|---|---|")
    for line in told:
        print(f"| {line.file} | {line.name or '(the file)'} | {line.state} | {line.here} |")
    print("\nNew here: " + ", ".join(new_files(upstream, ours)))
    counts = Counter(line.state for line in told if line.name)
    print("\nNames: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    wrong = list(faults(rows, args.checkout, ROOT))
    print("\n".join(f"diff_layout: {fault}" for fault in wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
