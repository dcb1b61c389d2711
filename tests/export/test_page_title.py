# SPDX-License-Identifier: Apache-2.0
"""A title of any origin is text on the page and nothing else: taken apart as a browser does, without one."""

import numpy as np
import pytest

from export.options import Options
from export.page import write_page
from tests.browser import browser_page, needs_browser
from tests.export.page_reader import Page, read_page
from tests.export.scenes import lopsided, run_folder
from tests.patience import until
from tools.export import main

TITLES = {
    "{{cloud}}": "{{cloud}}",
    "{{scene}} {{title}} {{harmonics}} {{background}}": "{{scene}} {{title}} {{harmonics}} {{background}}",
    "{{nothing}} {{": "{{nothing}} {{",
    "</title><script>alert(1)</script>": "</title><script>alert(1)</script>",
    "</script>": "</script>",
    "<!--": "<!--",
    "\" onload=\"alert(1)' x='": "\" onload=\"alert(1)' x='",
    "&amp; &lt; & <": "&amp; &lt; & <",
    "\\1 \\g<0> $& %s {0}": "\\1 \\g<0> $& %s {0}",
    "маленький 🍄 👩\u200d🚀 蘑菇": "маленький 🍄 👩\u200d🚀 蘑菇",
    "a\nb\r\n\tc\0\x1b[31m": "a b c [31m",
    "bad \udce9 byte": "bad ? byte",
    "x" * 10_000: "x" * 10_000,
}


@pytest.mark.parametrize("title", TITLES, ids=lambda title: title[:20].encode("ascii", "backslashreplace").decode())
def test_a_title_is_text_and_nothing_else(tmp_path, title) -> None:
    plain, page = tmp_path / "plain.html", tmp_path / "page.html"
    write_page(lopsided(), plain, Options(title="x"))
    write_page(lopsided(), page, Options(title=title))
    parsed, expected = Page(page), Page(plain)
    assert parsed.texts["title"] == 2 * TITLES[title]  # the head's, and the bar's, whose id is title too
    (label,) = (attributes["aria-label"] for _, attributes in parsed.tags if "aria-label" in attributes)
    assert label.startswith(TITLES[title] + ": drag")
    assert [(tag, attributes.keys()) for tag, attributes in parsed.tags] == [(tag, attributes.keys()) for tag, attributes in expected.tags]
    assert {name: text for name, text in parsed.texts.items() if name != "title"} == {name: text for name, text in expected.texts.items() if name != "title"}
    assert np.array_equal(read_page(page).xyz, lopsided().get_xyz.detach().numpy())


def test_the_file_name_is_the_title_where_none_is_given(tmp_path) -> None:
    run = run_folder(tmp_path / "{{cloud}}<b>")
    assert main([str(run), "--format", "html"]) == 0
    assert "{{cloud}}<b>" in Page(run / "export" / "{{cloud}}<b>.html").texts["title"]
    write_page(lopsided(), tmp_path / "mug.html", Options(title=" \n "))
    assert "mug" in Page(tmp_path / "mug.html").texts["title"]


@needs_browser
def test_a_long_title_leaves_the_page_usable(tmp_path) -> None:
    write_page(lopsided(), tmp_path / "page.html", Options(title="{{cloud}} </script> " + "W" * 10_000))
    with browser_page(400, 300) as page:
        page.goto(f"file://{tmp_path / 'page.html'}")
        until(lambda: page.evaluate("drawn > 0"))
        bar, colour = (page.locator(name).bounding_box() for name in ("#bar", "#background"))
        assert bar["height"] < 60 and colour["x"] + colour["width"] <= 400
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
