# SPDX-License-Identifier: Apache-2.0
"""How often the viewer's page gets an image, what counts as a step's time, its first view, and the SIBR viewer beside it."""

import math
import socket

import pytest

from arguments.load import load_config
from tests.gaussian_renderer.test_network_gui import REQUEST, packed, read_exactly
from tests.patience import PATIENCE_S, Clock
from tests.red_ball import red_ball
from tests.viewer.viewed_run import LOSSES, Run
from viewer import web_viewer
from viewer.viewers import Viewers

INTERVAL_S = 1.0
WORDS = ["--text", "a red cube", "--viewer_port", "0", "--viewer_interval", str(INTERVAL_S), "--iterations", "100"]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(web_viewer, "time", clock)
    return clock


@pytest.fixture
def page(clock):
    """A page that somebody looks at."""
    page = web_viewer.WebViewer(load_config(WORDS))
    page._server.get_clients = lambda: {0: None}
    yield page
    page.close()


@pytest.mark.parametrize(("took_s", "next_s"), [(0.0, INTERVAL_S), (0.05, INTERVAL_S), (0.5, 5.0), (3.0, 30.0)])
def test_images_are_sent_at_most_once_an_interval_and_take_a_tenth_of_the_time(
    page, clock, monkeypatch, took_s, next_s
) -> None:
    monkeypatch.setattr(page, "_show_gaussians", lambda gaussians: clock.sleep(took_s))
    assert page.is_due(1, False)
    page.show(red_ball(), 1, None, False)
    clock.sleep(next_s - 0.01)
    assert not page.is_due(2, False)
    clock.sleep(0.02)
    assert page.is_due(2, False)


def test_time_that_a_run_waits_for_a_viewer_does_not_count(page, clock) -> None:
    for step in (1, 2, 3):
        page.step_begins()
        clock.sleep(0.25)
        page.note(step, LOSSES)
        clock.sleep(1000)  # paused
    page.show(red_ball(), 3, None, False)
    assert "250 ms a step, 00:24 left" in page._status.content


def test_the_first_view_is_the_front_as_a_test_view_has_it(page) -> None:
    cameras, camera = page.config.cameras, page._server.initial_camera
    theta = math.radians(cameras.default_polar)
    front = (0.0, cameras.default_radius * math.sin(theta), cameras.default_radius * math.cos(theta))
    assert cameras.default_azimuth == 0 and camera.position == pytest.approx(front, abs=1e-6)
    assert tuple(camera.look_at) == (0, 0, 0) and camera.fov == pytest.approx(cameras.default_fovy)


def test_both_viewers_may_be_open_at_once() -> None:
    lines, config = [], load_config([*WORDS, "--port", "0"])
    with Viewers(config, lines.append) as viewers:
        run = Run(viewers, config)
        port = int(lines[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sibr:
            sibr.sendall(packed(REQUEST | {"train": True}))
            while not viewers._sibr.connected:
                run.step()
            run.step()
            assert read_exactly(sibr, REQUEST["resolution_x"] * REQUEST["resolution_y"] * 3)
        with socket.create_connection(("127.0.0.1", int(lines[1].split()[2].rpartition(":")[2])), timeout=PATIENCE_S):
            pass
