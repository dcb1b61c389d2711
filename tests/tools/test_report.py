# SPDX-License-Identifier: Apache-2.0
"""The report of tools/reproduce.py: what is in it, and how a browser shows it.

REPORT=FOLDER/report.html looks at that one; with SCREENSHOTS=docs/pictures its picture becomes the README's.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import browser
from tests.browser import browser_page, needs_browser
from tests.one_file_page import Tags
from tests.reproduced import SMALL, reproduced
from utils.image_utils import write_png

REPORT = os.environ.get("REPORT")
LOOK = """async () => {
  document.querySelectorAll('details').forEach(details => details.open = true);
  const images = [...document.images], videos = [...document.querySelectorAll('video')];
  for (const image of images) await image.decode();
  for (const video of videos) {
    await video.play();
    while (!video.currentTime) await new Promise(requestAnimationFrame);
    video.pause();
  }
  const text = [...document.querySelectorAll('p, li, figcaption, h1, h2, h3, summary')];
  return {
    images: images.length, empty: images.filter(image => !image.naturalWidth).length,
    videos: videos.filter(video => video.videoWidth && video.currentTime > 0).length,
    wider: document.documentElement.scrollWidth - innerWidth,
    cut: text.filter(element => element.getBoundingClientRect().right > innerWidth).length,
    smallest: Math.min(...text.map(element => parseFloat(getComputedStyle(element).fontSize))),
  };
}"""
"""Opens everything, decodes every picture and plays every video; a promise that is refused fails the test."""


def test_the_report_is_one_whole_file(tmp_path, pretended) -> None:
    reproduced(tmp_path, *SMALL)
    text = (tmp_path / "report.html").read_text()
    tags = Tags(text)
    assert tags.open == [] and all(address.startswith("data:") for address in tags.addresses)
    assert tags.names.count("video") == 2  # a method each, of the first seed
    assert tags.names.count("img") == 1 + 4 + 2  # the truth, every asset, region maps
    for told in (
        "Tables 1 and 2",
        "Against the known truth",
        "Cost of an asset",
        "What the parts did",
        "render, ms a step",
        "torch",
        "--text",
        "cannot be compared",
    ):
        assert told in text
    assert 'name="viewport"' in text


@needs_browser
@pytest.mark.parametrize("width_px", [1280, 390])
def test_a_browser_shows_the_report(tmp_path, pretended, width_px) -> None:
    """Every picture is decoded, every video plays, and nothing is wider than the window; the console is silent."""
    if not REPORT:
        reproduced(tmp_path, *SMALL)
    path = Path(REPORT or tmp_path / "report.html").resolve()
    tags = Tags(path.read_text(encoding="utf-8"))
    with browser_page(width_px) as page:
        page.goto(path.as_uri())
        seen = page.evaluate(LOOK)
    assert seen["images"] == tags.names.count("img") > 0 and seen["empty"] == 0
    assert seen["videos"] == tags.names.count("video") > 0
    assert seen["wider"] <= 0 and seen["cut"] == 0 and seen["smallest"] >= 12


@needs_browser
def test_the_readmes_picture_of_it(tmp_path, pretended) -> None:
    """Its beginning and the first prompts side by side, both sides full."""
    if not REPORT:
        reproduced(tmp_path, *SMALL)
    path = Path(REPORT or tmp_path / "report.html").resolve()
    with browser_page(660, 754) as page:
        page.goto(path.as_uri())
        sides = [_png(page.screenshot())]
        page.evaluate("[...document.querySelectorAll('h2')].find(h => h.innerText == 'Every prompt').scrollIntoView()")
        sides.append(_png(page.screenshot()))
    assert all(side.shape == (754, 660, 3) and side.std() > 10 for side in sides)
    write_png(Path((REPORT and browser.PICTURES) or tmp_path) / "report.png", np.hstack(sides))


def _png(content: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
