# SPDX-License-Identifier: Apache-2.0
"""The address of app.py's page names the run that is shown, and leads to it: after a reload, Back, and its deletion."""

import shutil

import pytest

from tests.browser import browser_page, needs_browser
from tests.export.scenes import lopsided
from tests.test_app_memory import _menu, _run
from tests.web_page import card_of, open_page, show_run

pytestmark = [pytest.mark.slow, needs_browser]


def _named(page, name: str) -> None:
    page.wait_for_function("name => new URLSearchParams(location.search).get('run') === name", arg=name)
    page.get_by_label("The run").get_by_text(name).wait_for()


def test_back_shows_the_run_before(served) -> None:
    address, folder = served
    first, second = _run(folder, "a red mug"), _run(folder, "a blue owl", "9")
    with browser_page() as page:
        open_page(page, f"{address}/?run={first.name}")
        _named(page, first.name)
        show_run(page, second.name)
        show_run(page, second.name)  # again: no further step
        _named(page, second.name)
        page.go_back()
        _named(page, first.name)
        page.wait_for_function("name => document.querySelector('.run.shown').dataset.run === name", arg=first.name)
        page.go_forward()
        _named(page, second.name)
        page.reload()
        _named(page, second.name)
    for job in (first, second):
        shutil.rmtree(job.folder)


def test_a_run_that_is_not_there_gives_way_and_is_named(served) -> None:
    """Deleted before the page was opened, while it is shown, and by a step back."""
    address, folder = served
    first, second = _run(folder, "a red mug"), _run(folder, "a blue owl", "9")
    with browser_page() as page:
        open_page(page, f"{address}/?run=gone<b>")
        page.get_by_text("The run gone<b> is not there any more.").wait_for()
        page.wait_for_function("!location.search.includes('gone')")
        show_run(page, first.name)
        show_run(page, second.name)
        shutil.rmtree(second.folder)
        page.get_by_text(f"The run {second.name} is not there any more.").wait_for()
        page.wait_for_function("name => !location.search.includes(name)", arg=second.name)
        shutil.rmtree(first.folder)
        page.go_back()
        page.get_by_text(f"The run {first.name} is not there any more.").wait_for()
        page.complaints.clear()  # of images of runs that are gone


def test_enter_renames(served) -> None:
    address, folder = served
    job = _run(folder, "a red mug")
    with browser_page() as page:
        open_page(page, address)
        _menu(page, job, "Rename")
        page.get_by_label("Name", exact=True).fill("mine")
        page.get_by_label("Name", exact=True).press("Enter")
        card_of(page, job.name).get_by_text("mine").wait_for()
        page.get_by_label("Rename the run").wait_for(state="detached")
    shutil.rmtree(job.folder)


@pytest.mark.parametrize("width_px", [390, 640, 1280])
def test_downloads_begin_with_what_most_visitors_look_for(served, width_px) -> None:
    address, folder = served
    job = _run(folder, "a red mug")
    lopsided().save_ply(job.folder / "point_cloud" / "iteration_3" / "point_cloud.ply")
    with browser_page(width_px, 844) as page:
        open_page(page, f"{address}/?run={job.name}")
        page.locator(".downloads .tile").first.wait_for()
        titles = page.locator(".downloads .tile .q-btn:not(.cancel)").all_inner_texts()
        assert [title.split("\n")[0] for title in titles[:3]] == ["HTML", "GLB", "PLY"]
        box, label = (page.locator(f'.q-checkbox[aria-label="Flip"] .q-checkbox__{part}').bounding_box() for part in ("inner", "label"))
        assert label["x"] >= box["x"] + box["width"] and label["y"] < box["y"] + box["height"]
    shutil.rmtree(job.folder)
