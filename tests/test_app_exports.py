# SPDX-License-Identifier: Apache-2.0
"""Exports of app.py in a browser: the server answers while one is made, and its link is there after a reload."""

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.browser import browser_page, needs_browser
from tests.export.scenes import run_folder
from tests.patience import PATIENCE_S, until
from tests.web_page import open_page, process_of, status, stopped, take


def _run(folder: Path) -> Path:
    run = run_folder(folder)
    (run / "config.yaml").write_text("OptimizationParams: {iterations: 10}\nGuidanceParams: {text: a red mug}\n")
    return run


@pytest.mark.slow
@needs_browser
def test_an_export_outlives_the_page_and_holds_up_nothing(served) -> None:
    address, folder = served
    run = _run(folder / "lopsided-run")
    with browser_page(accept_downloads=True) as page:
        open_page(page, address + "/?run=lopsided-run")
        upright = take(page, "PLY")
        assert upright.startswith(b"ply")
        page.get_by_label("Flip").click()
        page.locator('.downloads a[href*="scene.ply"]').wait_for(state="detached")
        flipped = take(page, "PLY")
        assert flipped != upright and len(flipped) == len(upright)
        assert take(page, "PLY") == flipped  # from the link
        page.get_by_label("Flip").click()
        page.get_by_role("button", name="GLB", exact=False).first.click()
        process = until(lambda: process_of(run, "export_process.py"), "no process of its own makes the export")
        with stopped(process):  # an export that takes for ever
            page.reload()
            page.locator(".downloads .busy").get_by_text("GLB", exact=True).wait_for()
            assert status(address) == 200 and status(f"{address}/runs/lopsided-run/config.yaml") == 200
            assert take(page, "PLY").startswith(b"ply")
            assert status(f"{address}/runs/lopsided-run/scene.glb") == 404
        link = page.locator(".downloads a").filter(has_text="GLBReady")
        link.wait_for()
        url = address + link.get_attribute("href")
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310
            assert answer.read(4) == b"glTF" and "lopsided-run.glb" in answer.headers["Content-Disposition"]


def _held(run: Path) -> int:
    """The process that makes an export, which takes for ever from now on."""
    process = until(lambda: process_of(run, "export_process.py"), "no process of its own makes the export")
    os.kill(process, signal.SIGSTOP)
    return process


@pytest.mark.slow
@needs_browser
def test_an_export_is_cancelled_by_another_tab(served) -> None:
    """It leaves nothing, every tab says so, after a reload too, and the next one is made."""
    address, folder = served
    run = _run(folder / "given-up")
    with browser_page(accept_downloads=True) as page:
        open_page(page, address + "/?run=given-up")
        page.get_by_role("button", name="GLB", exact=False).first.click()
        process = _held(run)
        another = page.context.new_page()
        open_page(another, address + "/?run=given-up")
        cancel = another.get_by_role("button", name="Cancel the")
        cancel.wait_for()
        assert cancel.get_attribute("aria-label") == "Cancel the GLB export"  # the only one
        cancel.click()
        until(lambda: not Path(f"/proc/{process}").exists(), "the export has not ended")
        another.get_by_role("tab", name="3D view").click()
        _held(run)
        another.get_by_role("button", name="Cancel the HTML export").click()
        another.locator(".outputs").get_by_text("The html export was cancelled; its tile makes it again.").wait_for()
        for tab in (another, page, page):
            tab.get_by_text("GLB: The glb export was cancelled; its tile makes it again.").wait_for()
            assert tab.locator(".downloads .busy").count() == 0 == tab.get_by_role("button", name="Cancel the").count()
            page.reload()
        assert status(address) == 200 and list((run / "export").iterdir()) == []
        assert take(page, "SPZ")[:2] == b"\x1f\x8b"
        assert [path.name for path in (run / "export").iterdir()] == ["given-up_10.spz"]
