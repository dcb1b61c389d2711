# SPDX-License-Identifier: Apache-2.0
"""What app.py remembers, in a browser: what was typed, and every run with what can be done with it."""

import json
import re
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from apps.web.drafts import to_text
from apps.web.fields import Request
from apps.web.job import Job
from apps.web.presets import STEPS, preset_of
from apps.web.sizes import size_in_words
from tests.browser import browser_page, needs_browser
from tests.export.scenes import lopsided
from tests.patience import PATIENCE_S, until
from tests.web_page import card_of, open_page, serve, show_run, status, take
from trainer.disk_use import total_bytes

pytestmark = [pytest.mark.slow, needs_browser]


def _run(output: Path, prompt: str, seed: str = "7", quality: str = "draft") -> Job:
    """A run that was stopped at step 3 and has shown one image."""
    request = Request(preset_of("quickstart", quality), prompt, "blur", seed, {STEPS: "77", "CoGradParams.t_jitter": "5"})
    job = Job.create(request.resolve(), output)
    (job.folder / "chkpnt3.safetensors").write_bytes(b"x" * 3000)
    _show_step(job, 3, 200)
    return job


def _show_step(job: Job, step: int, grey: int) -> None:
    panel = job.folder / "train_process" / f"iter_{step}.png"
    panel.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(panel), np.full((4 * 18 + 2, 8 * 18 + 2, 3), grey, np.uint8))


def _typed(page) -> tuple[str, ...]:
    """Prompt, negative prompt, steps, size and seed; and the quality that is pressed."""
    names = ("Prompt", "Negative prompt", "Steps", "Size, px", "Seed")
    texts = [page.get_by_label(name, exact=True).input_value() for name in names]
    return (*texts, page.locator('[aria-label="Quality"] [aria-pressed=true]').inner_text())


def test_the_form_shows_what_was_typed_after_a_reload_in_a_second_tab_and_from_another_server(tmp_path) -> None:
    server, address = serve(tmp_path)
    size = str(preset_of("quickstart", "fine").config.cameras.image_w)
    typed = ("a red mug <b>", "blur", "123", size, "41", "Fine")
    try:
        with browser_page() as page:
            open_page(page, address)
            page.get_by_role("button", name="Fine").click()
            for name, text in (("Prompt", typed[0]), ("Negative prompt", "blur"), ("Steps", "123"), ("Seed", "41")):
                page.get_by_label(name, exact=True).fill(text)
            page.get_by_text("1 changed: OptimizationParams.iterations").wait_for()
            page.wait_for_function("localStorage['cograd3d-form'].includes('41')")
            page.reload()
            until(lambda: page.get_by_label("Steps", exact=True).is_visible() and _typed(page) == typed)
            tab = page.context.new_page()
            open_page(tab, address)
            until(lambda: tab.get_by_label("Steps", exact=True).is_visible() and _typed(tab) == typed)
            tab.close()

            page.evaluate("window.loadedOnce = true")
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE_S)
            server, _ = serve(tmp_path, "--port", address.rpartition(":")[2])
            page.wait_for_function("!window.loadedOnce && document.querySelector('[aria-label=Quality]')")
            until(lambda: _typed(page) == typed)
            page.complaints.clear()  # of the connection that was refused in the meantime
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE_S)


def test_a_run_fills_the_form_and_is_compared_renamed_and_deleted(served) -> None:
    address, folder = served
    first, second = _run(folder, "a red mug"), _run(folder, "a blue owl", "9")
    with browser_page() as page:
        open_page(page, address)
        card_of(page, first.name).get_by_text("Use these settings").click()
        same = ("a red mug", "blur", "77", "128", "7", "Normal")
        until(lambda: _typed(page) == same)
        page.get_by_text("2 changed: OptimizationParams.iterations, CoGradParams.t_jitter").wait_for()
        show_run(page, second.name)
        page.get_by_label("The run").get_by_text("a blue owl", exact=True).wait_for()
        page.get_by_role("button", name="Same, another seed").click()
        until(lambda: _typed(page)[0] == "a blue owl")
        assert _typed(page)[4] not in ("7", "9", "0")
        page.wait_for_function("document.querySelector('.run .thumb img').naturalWidth > 0")

        _menu(page, first, "Compare with the run shown")
        both = page.get_by_label("Two runs")
        both.get_by_text("a blue owl", exact=True).first.wait_for()
        assert both.locator(".rows").inner_text().split("\n")[:6] == ["Prompt", "a blue owl", "a red mug", "Seed", "9", "7"]
        both.get_by_label("Close").click()
        both.wait_for(state="hidden")

        _menu(page, first, "Rename")
        page.get_by_label("Name", exact=True).fill("my <b>mug</b>")
        page.get_by_role("button", name="Rename").click()
        card_of(page, first.name).get_by_text("my <b>mug</b>").wait_for()
        page.reload()  # which shows the same run
        page.get_by_label("The run").get_by_text("a blue owl", exact=True).wait_for()
        _menu(page, first, "Delete")
        page.get_by_text('Delete "my <b>mug</b>" with its images').wait_for()
        size = size_in_words(total_bytes(first.folder))
        page.get_by_text(f"This frees {size}").wait_for()
        page.get_by_role("button", name="Delete", exact=True).click()
        card_of(page, first.name).wait_for(state="detached")
        page.get_by_text(f"{size} freed").wait_for()
        assert not first.folder.exists() and second.folder.exists()


def test_what_is_open_stays_when_runs_come_and_go(served) -> None:
    """A dialog, what is typed in it, and the images: another visitor adds and deletes runs meanwhile."""
    address, folder = served
    first, second = _run(folder, "a white mug"), _run(folder, "a black mug")
    with browser_page() as page:
        open_page(page, f"{address}/?run={second.name}")
        _menu(page, first, "Rename")
        name = page.get_by_label("Name", exact=True)
        name.fill("half typed")
        thumbnail = card_of(page, first.name).locator("img").element_handle()
        third = _run(folder, "a pink mug")
        card_of(page, third.name).wait_for(state="attached")
        assert name.input_value() == "half typed" and thumbnail.evaluate("image => image.isConnected")
        assert page.locator(".run").first.get_attribute("data-run") == third.name  # the newest first
        shutil.rmtree(first.folder)
        card_of(page, first.name).wait_for(state="detached")
        page.get_by_role("button", name="Rename").click()
        page.get_by_text("a-white-mug has been deleted").wait_for()
        assert not first.folder.exists()

        _menu(page, third, "Compare with the run shown")
        both = page.get_by_label("Two runs")
        both.get_by_text("a pink mug", exact=True).first.wait_for()
        shutil.rmtree(third.folder)
        card_of(page, third.name).wait_for(state="detached")
        assert both.is_visible()
        page.complaints.clear()  # of images of runs that are gone


def test_a_run_of_any_name_and_prompt_is_listed_shown_and_handed_over(served) -> None:
    """Names of the command line's runs, in an address, an attribute and a script; prompts of several lines."""
    address, folder = served
    prompt = "a \"red\" mug\\\nwith 'blue' handle}"
    jobs = []
    for name in ("blue cup", "größe", "100%2F?a#b&c=d", "say \"hi\" \\", "-x", "{{0}}", "n" * 120):
        made = _run(folder, prompt)
        lopsided().save_ply(made.folder / "point_cloud" / "iteration_3" / "point_cloud.ply")
        jobs.append(Job(made.folder.rename(folder / name)))
    with browser_page(accept_downloads=True) as page:
        open_page(page, address)
        for job in jobs:
            found = page.locator(f".run[data-run={json.dumps(job.name, ensure_ascii=False)}]")
            found.locator(".thumb").click()
            page.get_by_label("The run").get_by_text(job.name).wait_for()
            page.wait_for_function("name => new URLSearchParams(location.search).get('run') === name", arg=job.name)
            page.wait_for_function("document.querySelector('.outputs img')?.naturalWidth > 0")
            assert take(page, "config.yaml") == (job.folder / "config.yaml").read_bytes()
            for link in page.locator(".downloads a").evaluate_all("links => links.map(link => link.href)"):
                assert status(link) == 200
            none = page.locator(".downloads button").filter(has_text="MP4None yet; a run with save_video makes one")
            assert none.is_disabled()
            assert found.locator(".thumb").get_attribute("aria-label") == f"Show {prompt}"
        page.reload()
        page.get_by_label("The run").get_by_text(jobs[-1].name).wait_for()
    for job in jobs:
        shutil.rmtree(job.folder)


def _menu(page, job: Job, item: str) -> None:
    card_of(page, job.name).get_by_label("More").click()
    page.get_by_role("menuitem", name=item).or_(page.locator(".q-menu .q-item").filter(has_text=item)).first.click()


def test_a_live_image_stays_until_the_next_is_loaded(served) -> None:
    address, folder = served
    job = _run(folder, "a green cat")
    held: list = []
    with browser_page() as page:
        page.route(re.compile(r"/preview\.png\?v=4-\d+$"), lambda route: held.append(route))  # a slow answer
        open_page(page, f"{address}/?run={job.name}")
        image = page.locator(".outputs img")
        page.wait_for_function("document.querySelector('.outputs img')?.naturalWidth > 0")
        assert _grey(image) == 200
        _show_step(job, 4, 90)
        until(lambda: page.evaluate("0") == 0 and held)
        assert _grey(image) == 200  # nothing flickers
        held[0].continue_()
        until(lambda: _grey(image) == 90)


def _grey(image) -> int:
    """What a visitor sees in the middle of an image."""
    shown = cv2.imdecode(np.frombuffer(image.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    return int(shown[shown.shape[0] // 2, shown.shape[1] // 2, 0])


def test_a_start_that_is_refused_says_why_and_is_no_run(served) -> None:
    address, folder = served
    missing = {"GenerateCamParams.init_shape": "file", "GenerateCamParams.init_file": "/no/such.ply"}
    draft = Request(preset_of("quickstart", "draft"), "a red cone", changed=missing)
    with browser_page() as page:
        open_page(page, address)
        page.evaluate("draft => localStorage.setItem('cograd3d-form', draft)", to_text(draft))
        page.reload()
        page.get_by_text("2 changed: ").wait_for()
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_label("The run").get_by_text("/no/such.ply").wait_for()
        page.get_by_label("The run").get_by_text("failed", exact=True).wait_for()
        until(lambda: not (folder / "a-red-cone").exists())
        card_of(page, "a-red-cone").wait_for(state="detached")
        assert not page.get_by_role("button", name="Resume").is_visible()
        assert not page.get_by_label("The run").get_by_role("button", name="Use these settings").is_visible()
        assert _typed(page)[0] == "a red cone"
