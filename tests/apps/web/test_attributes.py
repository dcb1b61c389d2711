# SPDX-License-Identifier: Apache-2.0
"""Attributes of the page's elements: what people typed, or named a folder, is set by key and never parsed as text."""

import ast

from tests.web_page import ROOT

WITHOUT_QUOTES = {"MAX_CHARACTERS", "MAX_TITLE", "title", "tab.title", "source", "address", "job.address"}
"""What an f-string in props() may hold: numbers, titles of this program's, and addresses, which are quoted."""


def test_a_line_break_or_a_quote_of_a_prompt_cannot_break_the_page() -> None:
    held = set()
    for path in (ROOT / "apps" / "web").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "props":
                for value in (part.value for word in call.args for part in ast.walk(word) if isinstance(part, ast.FormattedValue)):
                    held.add(ast.unparse(value.func if isinstance(value, ast.Call) else value))
    assert held and held <= WITHOUT_QUOTES, held - WITHOUT_QUOTES
