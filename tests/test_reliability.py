# SPDX-License-Identifier: Apache-2.0
"""docs/reliability.md: every promise is a sentence that names its tests, and the tests it names exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.documented.commands import PAGES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = sorted({found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8"))})
"""Of the other documents too."""


def promises(document):
    """The items of the section Promises; anything else there but headings is an error."""
    section = document.split("\n## Promises\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.strip() and not line.startswith("#")]
    assert lines and all(line.startswith(("- ", "  ")) for line in lines), "a line that is no promise"
    return re.split(r"^- ", "\n".join(lines), flags=re.MULTILINE)[1:]


def test_a_promise_is_one_sentence_and_its_tests():
    for promise in promises(DOCUMENT):
        sentence, _, tests = re.sub(r"\s+", " ", promise).strip().partition(" (`tests/")
        is_named = re.fullmatch(r"[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*\)", tests)
        assert tests and is_named, f"names no test: {promise}"
        assert sentence.endswith(".") and ". " not in sentence, f"not one sentence: {promise}"


def test_every_named_test_exists():
    there = set()
    for path in {path for path, _ in NAMED if (ROOT / path).is_file()}:
        nodes = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        there |= {(path, node.name) for node in nodes if isinstance(node, ast.FunctionDef)}
    assert len(NAMED) > 200 and set(NAMED) - there == set()


@pytest.mark.parametrize("text", ["text between", "- a promise.\n\nand more text"])
def test_loose_text_among_the_promises_is_noticed(text):
    with pytest.raises(AssertionError, match="a line that is no promise"):
        promises(f"\n## Promises\n\n{text}\n\n## Figures\n")


def test_every_input_that_is_listed_as_found_is_in_the_corpus():
    listed = set(re.findall(r"`(\w+/\w+\.\w+)`", DOCUMENT.split("## Fuzzing", 1)[1])) - {"submodules/fuzz.py"}
    corpus = ROOT / "tests" / "fuzzing" / "corpus"
    found = {path.relative_to(corpus).as_posix() for path in corpus.glob("*/found_*")}
    assert found and found <= listed and all((corpus / name).is_file() for name in listed)
