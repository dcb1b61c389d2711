# SPDX-License-Identifier: Apache-2.0
"""README and docs: links and anchors lead somewhere, every page is in the index, examples run, named keys exist."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

from arguments import GROUPS
from arguments.command_line import build_parser
from arguments.declare import keys_of
from arguments.load import load_config
from tests.documented.commands import FENCE, PAGES, ROOT, fences, spans
from toy.captions import COLOURS
from toy.objects import CLASSES

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DOCUMENTS = [page for page in PAGES if page.parent in (ROOT, ROOT / "docs")]
LANGUAGES = {"sh", "bash", "text", "python", "yaml", "json"}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings]
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


def broken_links(page: Path, text: str) -> list[str]:
    """Targets of links that lead nowhere; addresses are only read."""
    found = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            found += [] if re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", target) else [target]
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page) -> None:
    assert broken_links(page, page.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "link", ["[x](gone.md)", "[x](docs/upstream.md#gone)", "[x](http://a.b)", "![x](docs/images/gone.png)"]
)
def test_a_broken_link_is_noticed(link) -> None:
    assert len(broken_links(ROOT / "README.md", link)) == 1


def test_every_page_of_docs_is_in_the_readmes_index() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text("utf-8")))
    assert {name(page) for page in PAGES if page.parent == ROOT / "docs"} <= linked


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "upstream.md"], ids=name)
def test_files_that_are_named_exist(page) -> None:
    """docs/upstream.md, which names LucidDreamer's files, has tests/test_upstream_map.py."""
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"output", "build"}
    paths = [span for span in spans(page) if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", span) and span.split("/")[0] in tops]
    inputs = ROOT / "tests" / "fuzzing" / "corpus"  # docs/reliability.md lists them
    missing = [path for path in paths if not (ROOT / path).exists() and not (inputs / path).exists()]
    assert [path for path in missing if "NAME" not in path] == []


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_functions_that_are_linked_are_in_their_file(page) -> None:
    """`name` in [`path`](...) or of it: a function, a class, a method or a table of that file."""
    for named, path in re.findall(r"`([\w.]+)` (?:in|of)\s+\[`([\w/]+\.py)`\]", page.read_text("utf-8")):
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        defined |= {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert set(named.split(".")) <= defined, f"{named} in {path}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_settings_that_are_named_exist(page) -> None:
    """`Group.key`, and every `--flag` of inline code: train.py's, a tool's, or a program's that is named with it."""
    for span in spans(page):
        for group, key in re.findall(r"\b(\w+Params)\.(\w+)", span):
            assert key in keys_of(GROUPS[group][1]), span
        if flag := re.match(r"--\w[\w.-]*", span):
            assert flag[0] in flags(), span


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_values_that_are_advised_are_taken(page) -> None:
    """Inline code that begins with a flag of train.py and has a value."""
    for span in spans(page):
        words = shlex.split(span) if span.startswith("--") else []
        if (
            len(words) > 1
            and words[0] in build_parser()._option_string_actions
            and words[0] not in ("--opt", "--resume")
        ):
            assert load_config(["--text", "a mug", *words]), span


@functools.cache
def flags() -> set[str]:
    """The flags of train.py, of the tools, of the benchmarks and of the programs of the tests."""
    sources = [path for room in ("tools", "benchmarks", "tests") for path in (ROOT / room).rglob("*.py")] + list(
        ROOT.glob("*.py")
    )
    declared = {flag for path in sources for flag in re.findall(r'"(--[\w-]+)"', path.read_text("utf-8"))}
    return declared | set(build_parser()._option_string_actions)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_says_its_language(page) -> None:
    text = page.read_text("utf-8")
    assert {language for language, _ in fences(page)} <= LANGUAGES
    assert text.count("\n```") == 2 * len(fences(page))


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_settings_files_that_are_shown_are_accepted(page, tmp_path) -> None:
    for number, (language, text) in enumerate(fences(page)):
        if language == "yaml":
            (tmp_path / "configs").mkdir(exist_ok=True)
            for path in (ROOT / "configs").glob("*.yaml"):
                (tmp_path / "configs" / path.name).write_text(path.read_text("utf-8"), "utf-8")
            shown = tmp_path / "configs" / f"shown_{number}.yaml"
            shown.write_text(text, "utf-8")
            assert load_config(["--opt", str(shown), "--text", "a mug"]).guidance.text == "a mug"


def test_the_toy_worlds_size_is_told_truly() -> None:
    told = [found for page in DOCUMENTS for found in re.findall(r"(\d+) objects in (\d+) colours", page.read_text("utf-8"))]
    assert len(told) >= 3 and set(told) == {(str(len(CLASSES)), str(len(COLOURS)))}
