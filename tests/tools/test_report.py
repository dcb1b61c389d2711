# SPDX-License-Identifier: Apache-2.0
"""The report of tools/reproduce.py: what is in it, and how a browser shows it.

REPORT=FOLDER/report.html looks at that one; with SCREENSHOTS=docs/images its image becomes the README's.
"""

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.reproduction.sheet import LABEL_PX, SIDE_PX, _row
from tests import browser
from tests.browser import browser_page, needs_browser
from tests.one_file_page import Tags
from tests.reproduced import SMALL, reproduced

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
"""Opens everything, decodes every image and plays every video; a promise that is refused fails the test."""


def test_the_report_is_one_whole_file(tmp_path, pretended) -> None:
    reproduced(tmp_path, *SMALL)
    text = (tmp_path / "report.html").read_text()
    tags = Tags(text)
    # Nothing is loaded from elsewhere; links lead within the page, and to the runs beside it.
    assert tags.open == [] and all(address.startswith(("data:", "#", "runs/")) for address in tags.addresses)
    # Every table's rows lead to the assets, every asset and every card to its run.
    assert all(tags.addresses.count(f"#{variant}") == 5 for variant in ("luciddreamer", "full"))
    runs = [address for address in tags.addresses if address.startswith("runs/")]
    assert len(runs) == 4 + 2 and all((tmp_path / address).is_dir() for address in runs)
    assert tags.names.count("video") == 2  # a method each, of the first seed
    assert tags.names.count("img") == 1 + 4 + 2  # the truth, every asset, region maps
    for told in (
        "Tables 1 and 2",
        "Against the known truth",
        "Every row has the steps of its settings, and its law's own scale",
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
    """Every image is decoded, every video plays, and nothing is wider than the window; the console is silent."""
    path = _report(tmp_path)
    tags = Tags(path.read_text(encoding="utf-8"))
    with browser_page(width_px) as page:
        page.goto(path.as_uri())
        seen = page.evaluate(LOOK)
    assert seen["images"] == tags.names.count("img") > 0 and seen["empty"] == 0
    assert seen["videos"] == tags.names.count("video") > 0
    assert seen["wider"] <= 0 and seen["cut"] == 0 and seen["smallest"] >= 12


TOPS = """() => [...document.querySelectorAll('h2, h3')].map(
  heading => [heading.innerText, Math.round(heading.getBoundingClientRect().top + scrollY)])"""


@needs_browser
def test_the_readmes_picture_of_it(tmp_path, pretended) -> None:
    """Its beginning and its first prompt."""
    with browser_page(1120, 900) as page:
        page.goto(_report(tmp_path).as_uri())
        whole = cv2.imdecode(np.frombuffer(page.screenshot(full_page=True), np.uint8), cv2.IMREAD_COLOR)
        tops = page.evaluate(TOPS)
    top, names = dict(tops), [name for name, _ in tops]
    after_one = tops[min(names.index("Every prompt") + 2, len(tops) - 1)][1]
    parts = [whole[: top["Tables 1 and 2"]], whole[top["Every prompt"] : after_one]]
    assert all(part.shape[0] > 200 and part.std() > 10 for part in parts)
    path = Path((REPORT and browser.PICTURES) or tmp_path) / "report.png"
    smallest = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    assert cv2.imwrite(str(path), np.vstack(parts), smallest) and path.stat().st_size < 400_000


def _report(folder: Path) -> Path:
    """The one that is asked for, or one of runs that are pretended."""
    if REPORT:
        return Path(REPORT).resolve()
    reproduced(folder, *SMALL)
    return folder / "report.html"


def test_a_sheet_shows_every_variant_of_the_first_seed(tmp_path, pretended) -> None:
    """The truth, then a row a variant; what is missing is white."""
    reproduced(tmp_path, *SMALL)
    shown = cv2.imread(str(tmp_path / "sheet.png"))
    assert shown.shape == (3 * SIDE_PX, LABEL_PX + 2 * SIDE_PX, 3)
    for row in range(3):
        views = shown[row * SIDE_PX : (row + 1) * SIDE_PX, LABEL_PX:]
        assert views[:, :SIDE_PX].std() > 5 and views[:, SIDE_PX:].std() > 5
    strips = [None, np.zeros((24, 8 * 24, 3), np.uint8)]
    row = _row("one two three four five six seven", strips)
    assert (row[:, LABEL_PX : LABEL_PX + 2 * SIDE_PX] == 255).all() and (row[:, LABEL_PX + 2 * SIDE_PX :] == 0).all()


def test_results_of_an_earlier_release_are_reported(tmp_path, pretended) -> None:
    """Which counted no samples: the cell says so, the rest stands."""
    reproduced(tmp_path, *SMALL)
    for path in tmp_path.glob("*-seed*.json"):
        result = json.loads(path.read_text())
        del result["samples"]
        path.write_text(json.dumps(result))
    reproduced(tmp_path, *SMALL, "--report_only")
    header, *lines = (tmp_path / "assets.csv").read_text().splitlines()
    column = header.split(",").index("samples")
    assert lines and all(next(csv.reader([line]))[column] == "" for line in lines)
    assert "<td>–</td>" in (tmp_path / "report.html").read_text()
