# SPDX-License-Identifier: Apache-2.0
"""Pages of one file: escaping, and how a browser shows them at desktop and phone width (skipped without one)."""

import base64
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.red_ball import write_run
from tools import pages
from tools.janus import write_sheet
from tools.reproduction.measure import draw
from utils.video import VideoWriter

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ASK = """
addEventListener('load', () => setTimeout(() => {
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  parent.postMessage([document.images.length, broken, document.documentElement.scrollWidth, innerWidth].join(' '), '*');
}, 300));
"""
FRAME = """<!doctype html><body><script>addEventListener('message', said => document.body.dataset.told = said.data);</script>
<iframe src="page.html" style="border: 0; width: {width_px}px; height: 900px"></iframe></body>"""
"""A browser without a screen has windows of 500 pixels at least; a frame in one may be narrower."""


def test_what_users_write_is_no_markup() -> None:
    text = pages.page("<b>", [pages.table(["a"], [[pages.escape('<script>"x"</script>')]])])
    assert "<title>&lt;b&gt;</title>" in text and text.count("<script>") == 1
    assert 'alt="&quot;&gt;"' in pages.image(b"", '">')


def test_pictures_are_inside() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    assert pages.image(pages.jpeg(picture), "black").startswith('<img src="data:image/jpeg;base64,/9j/')


def _shown(folder, text: str, width_px: int) -> tuple[list[str], str]:
    """What a page with a script that posts a message said, in words, and the browser's log."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width_px=width_px), encoding="utf-8")
    words = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--window-size=1400,1000", "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]
    shown = subprocess.run([*words, (folder / "frame.html").as_uri()], capture_output=True, text=True, timeout=120)
    return re.search(r'data-told="([^"]*)"', shown.stdout)[1].split(), shown.stderr


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH: apt-get install chromium")


@needs_browser
@pytest.mark.parametrize("width_px", [1280, 390])
def test_a_browser_shows_the_page(tmp_path, width_px) -> None:
    """No error on the console, every picture decoded, and nothing wider than the window."""
    strip = np.full((32, 900, 3), 200, np.uint8)
    with VideoWriter(tmp_path / "turn.mp4", 12) as video:
        video.add(strip[:, :32])
    wide = pages.table([f"column {k}" for k in range(30)], [[f"{k}.123456 ± 0.1" for k in range(30)]])
    cards = pages.video_file(tmp_path / "turn.mp4", pages.jpeg(strip[:, :32]), "a turntable") * 3
    body = ["<h1>A title of some length, as reports have it</h1>", wide]
    body += [f'<div class="cards"><div class="card">{cards}</div></div>']
    body += [f"<figure>{pages.image(pages.jpeg(strip), 'eight sides')}</figure>", "<pre>" + "word " * 99 + "</pre>"]
    told, log = _shown(tmp_path, pages.page("A page", body, pages.PLAY + ASK), width_px)
    images, broken, page_px, window_px = map(int, told)
    assert (images, broken) == (1, 0) and page_px <= window_px == width_px
    assert "CONSOLE" not in log


@needs_browser
def test_the_janus_sheet_takes_keys_and_clicks_and_keeps_them(tmp_path) -> None:
    runs = {name: write_run(tmp_path / name, (5,)) for name in ("a-x", "b-x", "b-y")}
    for run in runs.values():
        draw(run, 16)
    write_sheet(tmp_path / "sheet", runs, 0)
    act = """<script>
    document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}));
    document.getElementById('002').querySelector('button[value=unsure]').click();
    const pressed = [...document.querySelectorAll('button[aria-pressed=true]')].map(b => b.closest('.asset').id + b.value);
    const kept = localStorage.getItem('janus-' + document.body.dataset.sheet).replaceAll(/\\s/g, '');
    setTimeout(() => parent.postMessage([...pressed, document.getElementById('count').textContent, btoa(kept)].join(' '), '*'), 300);
    </script></body>"""
    text = (tmp_path / "sheet" / "sheet.html").read_text().replace("</body>", act)
    told, log = _shown(tmp_path, text, 390)
    assert told[:5] == ["001janus", "002unsure", "2", "of", "3"] and "CONSOLE" not in log
    assert json.loads(base64.b64decode(told[5])) == {"001": "janus", "002": "unsure"}
