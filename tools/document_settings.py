# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/configuration.md from arguments/ and configs/: python tools/document_settings.py [--check]

What stands between the marks is replaced, the words around them are kept. --check writes nothing and fails when the
page is stale.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import re
from typing import Any

from arguments import GROUPS, Config
from arguments.coerce import expectation, in_words
from arguments.declare import KeySpec, keys_of
from arguments.yaml_file import BASE_KEY, read_yaml
from utils.general_utils import write_text_atomically

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "configuration.md"


def group_section(title: str, group: type) -> str:
    """The heading, first sentence and table of one group; keys that nothing reads are named below it."""
    declared = keys_of(group)
    all_new = all(spec.ours for _, spec, _ in declared.values())
    rows = [
        "| key | default | takes | what it does |",
        "|---|---|---|---|",
        *(_row(name, *entry, all_new) for name, entry in declared.items() if not entry[1].unread),
    ]
    parts = [f"### {title}", (group.__doc__ or "").split("\n\n")[0], "\n".join(rows)]
    if unread := [f"`{name}`" for name, (_, spec, _) in declared.items() if spec.unread]:
        parts.append(f"Taken from LucidDreamer's files and read by nothing: {', '.join(unread)}.")
    return "\n\n".join(parts)


def _row(name: str, kind: Any, spec: KeySpec, default: object, all_new: bool) -> str:
    flags = "".join(f", `{alias}`" for alias in spec.aliases)
    mark = " *new*" if spec.ours and not all_new else ""
    cells = f"`{name}`{flags}{mark}", _code(in_words(default)), expectation(kind, spec), spec.help
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(cell: str) -> str:
    """Text that a Markdown table takes as it stands: no end of a cell, no HTML."""
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", cell.replace("|", r"\|"))


def _code(default: str) -> str:
    return default if default in ("none", "empty") else f"`{default}`"


def settings() -> str:
    """The sections of all groups, the top level first."""
    top = group_section("Top level", Config)
    return "\n\n".join([top, *(group_section(name, declared) for name, (_, declared) in GROUPS.items())])


def presets() -> str:
    """A row for each file of configs/: what it is based on, and what its first comment says."""
    rows = ["| file | based on | what it is |", "|---|---|---|"]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        base = read_yaml(str(path))[0].get(BASE_KEY)
        rows.append(f"| `{path.name}` | {f'`{base}`' if base else ''} | {_first_comment(path)} |")
    return "\n".join(rows)


def _first_comment(path: Path) -> str:
    """The first sentence of the comment that a file begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:].strip())
    return re.split(r"(?<=[.;]) (?=[A-Za-z])", " ".join(lines))[0].rstrip(".;")


def filled(page: str, name: str, text: str, tool: str = "document_settings") -> str:
    """The page with what stands between the marks of `name`, which `tool` writes, replaced. ValueError without them."""
    begin, end = f"<!-- {name}: python tools/{tool}.py -->", f"<!-- end of {name} -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"expected the marks '{begin}' and '{end}' in the page")
    return f"{head}{begin}\n{text}\n{end}{tail}"


@program.refuses("document_settings", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written or fresh, 1 stale, 2 marks are missing."""
    parser = program.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when the page is stale")
    args = parser.parse_args(argv)
    before = PAGE.read_text(encoding="utf-8")
    after = filled(filled(before, "settings", f"\n{settings()}\n"), "configs", f"\n{presets()}\n")
    if args.check and after != before:
        print(f"document_settings: docs/{PAGE.name} is stale; run python tools/document_settings.py", file=sys.stderr)
        return 1
    if after != before:
        write_text_atomically(PAGE, after)
    return 0


if __name__ == "__main__":
    program.run(main)
