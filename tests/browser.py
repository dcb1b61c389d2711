# SPDX-License-Identifier: Apache-2.0
"""Pages in a headless Chromium, where one is on the PATH: its console, its widths, screenshots for the README."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]
"""A container's root has no sandbox to use; WebGL is drawn by the CPU."""
PICTURES = os.environ.get("SCREENSHOTS")
"""A folder, such as docs/images, to keep the screenshots in: SCREENSHOTS=docs/images make test."""

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH: apt-get install chromium")


@contextlib.contextmanager
def browser_page(width_px: int = 1280, height_px: int = 900, **context) -> Iterator:
    """A playwright Page; at the end, errors and warnings of its console and uncaught exceptions fail the test.

    `context` goes to playwright's new_context. The messages so far are in `page.complaints`.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS, timeout=1000 * PATIENCE_S)
        window = browser.new_context(viewport={"width": width_px, "height": height_px}, **context)
        window.set_default_timeout(1000 * PATIENCE_S)
        page = window.new_page()
        page.complaints = []
        page.on("console", lambda said: said.type in ("error", "warning") and page.complaints.append(f"{said.text} {said.location}"))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        try:
            yield page
        finally:
            browser.close()
    assert page.complaints == [], page.complaints


def screenshot(page, name: str, folder: Path, **options) -> Path:
    """A picture of the page as `name`.png: under SCREENSHOTS where that is set, else in `folder`."""
    path = Path(PICTURES or folder) / f"{name}.png"
    page.screenshot(path=path, **options)
    return path
