# SPDX-License-Identifier: Apache-2.0
"""The offline page in a headless Chromium: the rasterizer's images, by mouse and by finger, and not one request."""

from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import PipelineParams
from evaluation.orbits import Orbit, camera_on_orbit, framing
from export.options import Options
from export.page import write_page
from gaussian_renderer import render
from tests import patience
from tests.browser import browser_page, needs_browser, screenshot
from tests.export.scenes import lopsided
from utils.image_utils import read_png, to_uint8

pytestmark = needs_browser
SIZE = (150, 110)
READY = "drawn > 0 && !asked"


def until(page, expression: str) -> None:
    """Polls from outside: the page's own security policy forbids what wait_for_function does."""
    patience.until(lambda: page.evaluate(expression), expression, poll_s=0.02)


def open_page(page, path: Path, **camera) -> list[str]:
    """Opens the file; returns the list that requests other than for the file itself go to."""
    requests: list[str] = []
    page.on("request", lambda request: request.url.startswith("file:") or requests.append(request.url))
    page.goto(f"file://{path}#" + "&".join(f"{key}={value}" for key, value in camera.items()))
    until(page, "drawn > 0" if camera.get("turn", 1) else READY)
    return requests


def shown(page, folder: Path) -> np.ndarray:
    return read_png(screenshot(page, "export_page_test", folder)).astype(float)


def turned_to(page, folder: Path, camera: dict) -> np.ndarray:
    before = page.evaluate("drawn")
    page.evaluate("hash => { location.hash = hash; }", "&".join(f"{key}={value}" for key, value in camera.items()))
    until(page, f"drawn > {before} && !asked")
    return shown(page, folder)


def by_our_renderer(gaussians, centre, background, *, azimuth, polar, radius, fov, **_) -> np.ndarray:
    camera = camera_on_orbit(centre, Orbit(*SIZE, fov, 90 - polar, radius), azimuth)
    with torch.no_grad():
        return to_uint8(render(camera, gaussians, PipelineParams(), torch.tensor(background))["render"]).astype(float)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a - b) ** 2))


@pytest.mark.parametrize("degree, least, antialiased", [(0, 50, False), (3, 45, False), (0, 50, True)])
def test_the_page_shows_what_our_renderer_shows(tmp_path, monkeypatch, degree, least, antialiased) -> None:
    monkeypatch.setattr("tests.browser.PICTURES", None)
    scene, background = lopsided(degree), (0.2, 0.4, 0.6)
    scene.antialiased = antialiased
    if antialiased:  # from a tenth of a pixel to two
        scene.parameters_in_order()["scaling"].data -= 1.5
    scene.get_xyz.data += torch.tensor([0.3, -0.2, 0.5])
    write_page(scene, tmp_path / "scene.html", Options(background=background))
    centre = framing([scene]).centre
    still = {"fov": 0.5, "turn": 0, "bar": 0}
    views = [
        {"azimuth": 0, "polar": 75, "radius": 3.2},
        {"azimuth": 130, "polar": 40, "radius": 1.6},
        {"azimuth": 250, "polar": 110, "radius": 5},
    ]
    with browser_page(*SIZE, offline=True) as page:
        requests = open_page(page, tmp_path / "scene.html", **still)
        images = [turned_to(page, tmp_path, {**view, **still}) for view in views]
        assert requests == []
    for view, image in zip(views, images):
        expected = by_our_renderer(scene, centre, background, **view, **still)
        assert np.ptp(expected) > 100  # there is something to see
        assert psnr(image, expected) > least
    assert psnr(images[0], images[1]) < 25


def test_mouse_wheel_keys_and_colour_do_what_they_say(tmp_path) -> None:
    write_page(lopsided(), tmp_path / "scene.html", Options(title='a <b>"mug"</b>'))
    with browser_page(400, 300) as page:
        open_page(page, tmp_path / "scene.html")
        assert page.title() == 'a <b>"mug"</b>'
        until(page, "camera.azimuth > 1")  # turns until it is touched
        state = lambda: page.evaluate("({...camera})")  # noqa: E731
        page.mouse.move(200, 150)
        page.mouse.down()
        page.mouse.move(260, 130, steps=3)
        page.mouse.up()
        dragged = state()
        assert dragged["turn"] == 0 and dragged["polar"] == pytest.approx(75 + 8)
        until(page, READY)
        page.mouse.wheel(0, 100)
        until(page, f"camera.radius > {dragged['radius'] * 1.1}")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("+")
        after = state()
        assert after["azimuth"] == pytest.approx(dragged["azimuth"] - 6)
        assert after["radius"] == pytest.approx(dragged["radius"] * np.exp(0.15) * 0.9)
        page.fill("#background", "#204060")
        until(page, READY)
        assert shown(page, tmp_path)[5, 5].tolist() == [0x20, 0x40, 0x60]


def test_two_fingers_zoom_on_a_phone(tmp_path) -> None:
    write_page(lopsided(), tmp_path / "scene.html", Options())
    with browser_page(390, 700, has_touch=True, is_mobile=True, device_scale_factor=2) as page:
        open_page(page, tmp_path / "scene.html", turn=0)
        assert page.evaluate("[canvas.width, canvas.height]") == [780, 1400]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        radius = page.evaluate("camera.radius")
        touch = page.context.new_cdp_session(page)

        def fingers(kind: str, *places: tuple[int, int]) -> None:
            points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(places)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        fingers("touchStart", (150, 300), (250, 300))
        fingers("touchMove", (100, 300), (300, 300))
        fingers("touchEnd")
        assert page.evaluate("camera.radius") == pytest.approx(radius / 2, rel=0.02)


def test_a_browser_without_webgl_is_told_so(tmp_path) -> None:
    write_page(lopsided(), tmp_path / "scene.html", Options())
    with browser_page(300, 200) as page:
        page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
        page.goto(f"file://{tmp_path / 'scene.html'}")
        assert "WebGL 2, which this browser does not offer" in page.inner_text("#problem")
        assert len(page.complaints) == 1 and "WebGL 2" in page.complaints.pop()
