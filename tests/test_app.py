# SPDX-License-Identifier: Apache-2.0
"""app.py as a visitor meets it: from a prompt typed in a browser to the files on the disk."""

import io
import json
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import trimesh

import app
from evaluation.run_folder import last_point_cloud
from scene.ply import read_vertices
from tests.browser import PICTURES, browser_page, needs_browser, screenshot
from tests.patience import PATIENCE_S, until
from tests.web_page import ROOT, open_page, process_of, serve, show_run, stopped, take

STALL_S = 15.0  # of a page, longer than its framework waits by default
QUICK = {"OptimizationParams.iterations": "80", "test_ratio": "1", "GenerateCamParams.view_px": "32", "GenerateCamParams.image_w": "32", "GenerateCamParams.image_h": "32", "GenerateCamParams.init_num_pts": "1000"}  # fmt: skip
"""A few seconds' run."""


def _set(page, label: str, value: str) -> None:
    """Finds one advanced setting by the search, and types a value."""
    name = label.rpartition(".")[2]
    page.get_by_label("Search all settings").fill(name)
    field = page.get_by_label(name, exact=True)
    field.fill(value)
    field.blur()


def _wait_and_leave(tab, address: str) -> None:
    """Another tab shows the same run; what it starts is queued, and cancelled."""
    open_page(tab, address)
    tab.get_by_label("The run").get_by_text("a yellow mug with blue handle", exact=True).wait_for()
    tab.get_by_role("button", name="Start").click()
    tab.get_by_text("Queued: a yellow mug with blue handle").wait_for()  # what was typed in the first tab
    tab.get_by_role("button", name="Cancel").click()
    tab.get_by_text("Queued: ").wait_for(state="hidden")
    tab.close()


def _overflow_px(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@needs_browser
def test_from_a_prompt_to_the_files(served, tmp_path) -> None:
    address, folder = served
    with browser_page(accept_downloads=True) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        open_page(page, address)
        page.get_by_label("Prompt", exact=True).fill("a <b>yellow</b> mug with blue handle")
        page.get_by_text("The toy world ignores 'b'").wait_for()
        page.get_by_label("Prompt", exact=True).fill("a yellow mug with blue handle")
        page.get_by_text("Advanced settings").click()
        _set(page, "OptimizationParams.iterations", "0")
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Steps = '0': expected a whole number >= 1").filter(visible=True).first.wait_for()
        for label, value in QUICK.items():
            _set(page, label, value)
        page.get_by_text(f"{len(QUICK)} changed").wait_for()
        assert not (folder / "a-yellow-mug-with-blue-handle").exists()  # a refused start leaves nothing
        page.get_by_role("button", name="Start").click()
        page.get_by_text("starting", exact=True).wait_for()
        run = until(lambda: process_of(folder / "a-yellow-mug-with-blue-handle", "train.py"))
        with stopped(run):  # so that it does not end before a slow browser has looked
            _wait_and_leave(page.context.new_page(), address)
        until(lambda: any(log.stat().st_size for log in folder.glob("*-handle/log.jsonl")))
        with stopped(run):
            page.get_by_text("running", exact=True).wait_for()
        page.locator(".outputs img").wait_for()
        assert page.evaluate("document.querySelector('.outputs img').decode().then(() => true)")

        page.reload()  # the run is the server's, not the tab's
        page.get_by_text("finished", exact=True).wait_for()
        assert "step 80 of 80" in page.inner_text("main")
        page.wait_for_function("document.querySelector('.outputs video')?.readyState >= 2")
        cloud = read_vertices(file_of(tmp_path, "taken.ply", take(page, "PLY")))
        _, saved = last_point_cloud(folder / "a-yellow-mug-with-blue-handle")
        assert np.array_equal(np.abs(cloud["x"]), np.abs(read_vertices(saved)["x"]))  # another axis is up there
        _check_glb(take(page, "GLB"))
        assert take(page, "MP4")[4:8] == b"ftyp" and b"blue handle" in take(page, "config.yaml")
        page.get_by_role("tab", name="Region map").click()
        page.wait_for_function("document.querySelector('.outputs img')?.naturalWidth > 400")
        page.get_by_role("tab", name="3D view").click()
        page.frame_locator(".outputs iframe").locator("canvas").wait_for()
        assert not page.evaluate("document.body.classList.contains('body--dark')")
        page.set_viewport_size({"width": 390, "height": 844})
        assert _overflow_px(page) <= 0
        assert {url.split("/")[2] for url in asked if url.startswith(("http", "ws"))} == {
            address.removeprefix("http://")
        }


def file_of(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


SOON_AFTER_THE_FRONT = """() => new Promise(done => {
  const video = document.querySelector('.outputs video');
  video.pause(); video.onseeked = () => setTimeout(done, 500); video.currentTime = 0.3;
})"""


@pytest.mark.skipif(not PICTURES, reason="the README's picture: make demo, then SCREENSHOTS=docs/images")
@needs_browser
def test_the_picture_of_the_demo(tmp_path) -> None:
    server, address = serve(ROOT / "output")
    try:
        with browser_page() as page:
            open_page(page, address)
            show_run(page, "quickstart")
            page.get_by_text("finished", exact=True).wait_for()
            page.wait_for_function("document.querySelector('.outputs video')?.readyState >= 4")
            page.evaluate(SOON_AFTER_THE_FRONT)
            assert screenshot(page, "app", tmp_path, full_page=True).stat().st_size < 400_000
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE_S)


def _check_glb(content: bytes) -> None:
    """A GLB with a mesh and a texture: its header, its lengths, its JSON, its triangles."""
    assert content[:4] == b"glTF" and int.from_bytes(content[8:12], "little") == len(content)
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert tree["asset"]["version"] == "2.0" and tree["images"] and tree["materials"]
    (mesh,) = trimesh.load(io.BytesIO(content), file_type="glb").geometry.values()
    assert len(mesh.faces) > 100 and mesh.visual.uv is not None


@pytest.mark.slow
@needs_browser
def test_start_asks_about_unknown_words(served) -> None:
    """Two minutes are not spent on a mixture of all objects unless somebody wants that."""
    address, folder = served
    with browser_page() as page:
        open_page(page, address)
        page.get_by_text("Advanced settings").click()
        for label, value in {**QUICK, "OptimizationParams.iterations": "2"}.items():
            _set(page, label, value)
        prompt = page.get_by_label("Prompt", exact=True)
        prompt.fill("a dragon")
        page.get_by_role("button", name="Start", exact=True).click()
        asked = page.get_by_label("Unknown words")
        asked.get_by_text("The prompt names no object of the toy world").wait_for()
        asked.get_by_text("Known objects: cube").wait_for()
        asked.get_by_text("Other texts need a preset with Stable Diffusion.").wait_for()
        assert asked.get_by_role("button").count() == 2  # nothing known is like it
        asked.get_by_role("button", name="Change the prompt").click()
        asked.wait_for(state="hidden")
        prompt.fill("a red mushrom")
        page.get_by_role("button", name="Start", exact=True).click()
        asked.get_by_role("button", name='Start with "a red mushroom"').click()
        page.get_by_label("The run").get_by_text("a red mushroom", exact=True).wait_for()
        assert prompt.input_value() == "a red mushroom" and not list(folder.glob("*dragon*"))
        page.get_by_text("finished", exact=True).wait_for()
        prompt.fill("a dragon")
        page.get_by_role("button", name="Start", exact=True).click()
        asked.get_by_role("button", name="Start anyway: a mixture of all objects").click()
        page.get_by_label("The run").get_by_text("a dragon", exact=True).wait_for()
        page.get_by_text("finished", exact=True).wait_for()
        page.get_by_label("The run").get_by_text("the prior shows a mixture of all objects").wait_for()


@pytest.mark.slow
@needs_browser
def test_a_page_that_stalls_is_not_loaded_again(tmp_path) -> None:
    """As a browser on a busy machine does: it keeps its state and gets its answers, a download among them."""
    server, address = serve(tmp_path)
    try:
        with browser_page() as page:
            open_page(page, address)
            page.evaluate("window.loadedOnce = true")
            page.evaluate("ms => { const end = Date.now() + ms; while (Date.now() < end); }", 1000 * STALL_S)
            page.get_by_label("Prompt", exact=True).fill("a <b>yellow</b> mug with blue handle")
            page.get_by_text("The toy world ignores 'b'").wait_for()
            assert page.evaluate("window.loadedOnce")
    finally:
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=PATIENCE_S)[0]
    assert "Traceback" not in said and server.returncode == 0, said


@needs_browser
def test_a_phone_shows_the_whole_page_in_its_own_scheme(served) -> None:
    with browser_page(390, 844, color_scheme="dark") as page:
        open_page(page, served[0])
        page.get_by_text("Advanced settings").click()
        page.get_by_text("GuidanceParams").click()
        page.get_by_label("guidance_scale", exact=True).wait_for()
        assert _overflow_px(page) <= 0
        assert page.evaluate("document.body.classList.contains('body--dark')")


def test_bad_arguments_are_told_in_a_sentence(tmp_path, capsys, monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        assert app.main(["--port", str(taken.getsockname()[1]), "--output", str(tmp_path)]) == 2
    assert "address already in use" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert app.main(["--port", "0", "--output", str(tmp_path / "file")]) == 2
    assert "file: a file is in the place of a folder" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert app.main([]) == 2
    assert (
        "the page needs NiceGUI, which is not installed: pip install -r requirements-extra.txt"
        in capsys.readouterr().err
    )


def test_an_open_address_is_warned_of(tmp_path, capsys, monkeypatch) -> None:
    from apps.web import server

    monkeypatch.setattr(server, "serve", lambda *_: None)
    assert app.main(["--host", "0.0.0.0", "--port", "0", "--output", str(tmp_path)]) == 0
    assert "whoever reaches 0.0.0.0 can start and read runs" in capsys.readouterr().err
    assert app.main(["--port", "0", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
