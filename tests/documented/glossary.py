# SPDX-License-Identifier: Apache-2.0
"""Words that this project does not use, and where to look for them: messages, comments, documents, public names."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.documented.commands import FENCE, PAGES, ROOT, SPAN


@dataclass(frozen=True)
class Entry:
    """What is not written, as a regular expression, and what is written in its place."""

    pattern: str
    instead: str


TEXT = (
    Entry(r"\bpictur\w*", "image"),
    Entry(r"number types?|numbers that the \w+ computes", "dtype, compute dtype"),
    Entry(r"(?<!matter of )\bopinion\w*", "prediction, guidance"),
    Entry(r"\bhears?\b|\bheard\b", "gets as conditioning; receives"),
    Entry(r"\b(prior|model|network)s? (says|said|thinks|wants|would have)\b", "the prior's prediction"),
    Entry(r"\bask(s|ed|ing)? (the|a|an) ([\w-]+ )?(prior|model|network)\b", "predict, guide"),
    Entry(r"\bc(an|annot|ould) (not )?(still )?be had\b", "is (not) available"),
    Entry(r"\b(that|which) (is|are) none\b", "is not a valid ..."),
    Entry(r"\bnever told\b", "unknown words: x. Known words: ..."),
    Entry(r"\btold\b", "reported, printed, parsed"),
    Entry(r"\b(goes|go|going|went) on\b(?! and off)", "continue, resume"),
    Entry(r"\banew\b", "again"),
    Entry(r"\bin line\b(?! with)|\bline is full|\bline has one", "queued; the queue is full"),
    Entry(r"\bstrangers?\b", "untrusted input; unknown words"),
    Entry(r"\b(crew|hire|hires|hired|seats|wish|wishes|wished)\b", "thread pool, slots, server state, request"),
    Entry(r"\b(leaders?|followers?)\b", "rank 0, workers"),
    Entry(r"\bSIG\w+ came\b", "Received SIG..."),
)
"""Of messages, comments and documents."""

NAMES = (
    Entry("picture|pictures", "image"),
    Entry("told", "report, print, parse"),
    Entry("found", "result"),
    Entry("wish|wishes", "request"),
    Entry("desk", "server state"),
    Entry("crew|hire|seat|seats", "thread pool, spawn, slots"),
    Entry("stranger|strangers", "untrusted, unknown"),
    Entry("leader|leads|follower|follow|follows", "rank 0, worker; remap"),
    Entry("anew", "again"),
    Entry("hears|opinion", "conditioning, guidance"),
    Entry("ask|asks|asked|wanted", "request, expected"),
    Entry("turned", "flipped"),
)
"""Parts of public names, in small letters: of functions, classes, their fields and parameters, constants, files."""

WHOLE_NAMES = {
    "accumulate_gradients": "compute_gradients",
    "_ask_prior": "distill_views",
    "_give_gradient": "set_gradient",
    "_take_gradient": "pop_gradient",
    "Share": "Shard",
    "hold": "keepalive",
    "ends": "exit_with",
    "goes_on": "continues",
    "PromptBook": "a class named after what it does",
    "Stage": "view",
}


def product_files() -> list[Path]:
    """Every Python file that is in the repository and no test."""
    names = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split() if not name.startswith("tests/") and (ROOT / name).is_file()]


def in_text(text: str) -> list[str]:
    """One line for each word of a text that is not used."""
    return [
        f"{match[0]!r}: write {entry.instead}"
        for entry in TEXT
        for match in re.finditer(entry.pattern, " ".join(text.split()), re.IGNORECASE)
    ]


def in_name(name: str) -> list[str]:
    """One line for each part of a name that is not used."""
    if name in WHOLE_NAMES:
        return [f"{name}: write {WHOLE_NAMES[name]}"]
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return [f"{name}: write {entry.instead}" for entry in NAMES if set(parts) & set(entry.pattern.split("|"))]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment of a file and of each string of two words or more, docstrings included."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 1:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def public_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of a file, its definitions, their fields and parameters, and its flags (strings like --flag)."""
    tree = ast.parse(path.read_text("utf-8"))
    yield 1, path.stem
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"--[\w-]+", str(node.value)):
            yield node.lineno, node.value.lstrip("-").replace("-", "_")
    yield from ((node.lineno, name) for node in _definitions(tree) for name in _names_of(node))


def _definitions(parent: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    """Statements of a module and of its classes that define something public, or something of WHOLE_NAMES."""
    for node in parent.body:
        name = getattr(node, "name", "")
        if name.startswith("_") and not name.startswith("__") and name not in WHOLE_NAMES:
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        given = node.args
        return [node.name, *(arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs))]
    if isinstance(node, ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name) and not target.id.startswith("_")]


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each paragraph of a document, without code."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))
    text = SPAN.sub(lambda span: "`code`" + "\n" * span[0].count("\n"), text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    line = 1
    for paragraph in text.split("\n\n"):
        yield line, paragraph
        line += paragraph.count("\n") + 2


def findings(path: Path) -> list[str]:
    """Every use of a word that is not used, with file and line."""
    name = path.relative_to(ROOT).as_posix()
    if path in PAGES:
        return [f"{name}:{line}: {word}" for line, text in prose(path) for word in in_text(text)]
    found = [(line, word) for line, text in texts(path) for word in in_text(text)]
    found += [(line, word) for line, public in public_names(path) for word in in_name(public)]
    return [f"{name}:{line}: {word}" for line, word in sorted(found)]
