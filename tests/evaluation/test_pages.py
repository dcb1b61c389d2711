# SPDX-License-Identifier: Apache-2.0
"""Pages of one file: escaping, and how a browser shows them at desktop and phone width (skipped without one)."""

import numpy as np
import pytest

from evaluation import pages
from tests.browser import browser_page, needs_browser
from utils.video import VideoWriter


def test_what_users_write_is_no_markup() -> None:
    text = pages.page("<b>", [pages.table(["a"], [[pages.escape('<script>"x"</script>')]])])
    assert "<title>&lt;b&gt;</title>" in text and text.count("<script>") == 1
    assert 'alt="&quot;&gt;"' in pages.image(b"", '">')


def test_names_of_any_origin_are_text(tmp_path) -> None:
    """A folder's name may be no UTF-8, and may look like what a page is made of."""
    name = 'caf\udce9 {{title}} <body> </script> "'
    text = pages.page(name, [pages.escape(name)], sheet='"><b>')
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    assert text.count("caf? {{title}} &lt;body&gt; &lt;/script&gt; &quot;") == 2
    assert text.count("<body") == 1 and 'data-sheet="&quot;&gt;&lt;b&gt;"' in text


def test_pictures_are_inside() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert pages.image(pages.jpeg(image), "black").startswith('<img src="data:image/jpeg;base64,/9j/')


@needs_browser
@pytest.mark.parametrize("width_px", [1280, 390])
def test_a_browser_shows_the_page(tmp_path, width_px) -> None:
    """No error on the console, every image decoded, and nothing wider than the window."""
    strip = np.full((32, 900, 3), 200, np.uint8)
    with VideoWriter(tmp_path / "turn.mp4", 12) as video:
        video.add(strip[:, :32])
    wide = pages.table([f"column {k}" for k in range(30)], [[f"{k}.123456 ± 0.1" for k in range(30)]])
    cards = pages.video_file(tmp_path / "turn.mp4", pages.jpeg(strip[:, :32]), "a turntable") * 3
    body = ["<h1>A: cograd-a_cyan_robot_with_orange_arms_and_a_red_hat-552ec2-seed0</h1>", wide]
    body += [f'<div class="cards"><div class="card">{cards}</div></div>']
    body += [f"<figure>{pages.image(pages.jpeg(strip), 'eight sides')}</figure>", "<pre>" + "word " * 99 + "</pre>"]
    (tmp_path / "page.html").write_text(pages.page("A page", body), encoding="utf-8")
    with browser_page(width_px) as page:
        page.goto((tmp_path / "page.html").as_uri())
        assert (
            page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(all => all.length)") == 1
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
