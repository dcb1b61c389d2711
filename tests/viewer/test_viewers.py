# SPDX-License-Identifier: Apache-2.0
"""The viewers of a run as training sees them: who holds it, what a paused run still hears, what looking costs."""

import socket
import threading
import time

import cv2
import numpy as np
import pytest
import torch

import viewer.viewers
from arguments import Config
from arguments.load import load_config
from cograd import CoGrad
from gaussian_renderer import network_gui
from scene.gaussian_model import GaussianModel
from tests.gaussian_renderer.test_network_gui import REQUEST, packed, read_exactly
from tests.patience import PATIENCE_S, Clock, until
from tests.viewer.looker import Looker
from tests.viewer.viewed_run import PAGE, Run, ends
from trainer.outputs import region_image
from utils.sh_utils import SH2RGB
from viewer.viewers import Viewers


def test_nothing_is_copied_while_nobody_looks(page, monkeypatch):
    def copied(*_):
        raise AssertionError("the Gaussians were touched")

    monkeypatch.setattr(GaussianModel, "get_covariance", copied)
    page[0].step(20)
    assert page[0].told == []


def test_the_page_shows_the_run(page):
    run, url = page
    with Looker(url) as looker:
        thread = run.in_background()
        looker.until(lambda: looker.buffers_sent)
        looker.until(lambda: "guidance 0.25, total 0.5" in looker.text())
        looker.until(lambda: "ms a step" in looker.text())
        assert "of 100000" in looker.text() and "3,000 Gaussians" in looker.text()
        texts = [
            (props["label"], props.get("disabled"))
            for props in looker.panel.values()
            if props.get("label") in ("Prompt", "Negative")
        ]
        assert texts == [("Prompt", True), ("Negative", True)]
        values = [message.get("value") for message in looker.messages]
        assert "a red <b>cube</b> *here*" in values and "ugly" in values
        run.stopped = True
        assert ends(thread)


def test_the_losses_in_numbers_are_those_of_one_step(page):
    """A point of the curves is a mean over steps."""
    run, url = page
    run.viewers._page._curves.most = 1
    run.losses = {"guidance": 1e9, "total": 1e9}
    run.step(3)
    run.losses = {"guidance": 0.25, "total": 0.5}
    with Looker(url) as looker:
        thread = run.in_background()
        looker.until(lambda: "guidance" in looker.text())
        assert "guidance 0.25, total 0.5" in looker.text()
        run.stopped = True
        assert ends(thread)


def test_the_gaussians_arrive_as_they_are(page):
    run, url = page
    gaussians = run.watched.gaussians
    with Looker(url) as looker:
        thread = run.in_background()
        looker.until(lambda: looker.buffers_sent)
        run.stopped = True
        assert ends(thread)
    words = np.frombuffer(looker.buffer, np.uint32).reshape(3000, 8)
    assert np.array_equal(words[:, :3].copy().view(np.float32), gaussians.get_xyz.detach().numpy())
    covariances = words[:, 4:7].copy().view(np.float16).astype(float)
    assert covariances == pytest.approx(gaussians.get_covariance().detach().numpy(), rel=1e-3, abs=1e-7)
    rgba = words[:, 7:].copy().view(np.uint8)
    assert np.abs(rgba[:, :3] / 255 - SH2RGB(gaussians.get_features[:, 0].detach()).numpy()).max() < 1 / 255
    assert np.abs(rgba[:, 3:] / 255 - gaussians.get_opacity.detach().numpy()).max() < 1 / 255


def test_a_paused_run_waits_and_still_hears(page):
    run, url = page
    with Looker(url) as looker:
        thread = run.in_background()
        looker.until(lambda: looker.buffers_sent)
        looker.press("Pause")
        looker.until(lambda: "**Paused**" in looker.text())
        at, busy, began = run.iteration, time.process_time(), time.monotonic()
        looker.press("Checkpoint now")
        looker.until(lambda: any(message["type"] == "NotificationShowMessage" for message in looker.messages))
        looker.read(0.5)
        assert run.iteration == at and run.saved == [at] and run.held > 0
        assert run.told == [f"a viewer has paused the run after step {at}"]
        assert time.process_time() - busy < 0.5 * (time.monotonic() - began)  # it does not spin
        looker.press("Resume")
        looker.until(lambda: run.iteration > at and "**Training**" in looker.text())
        run.stopped = True
        assert ends(thread)


def test_a_checkpoint_that_cannot_be_written_is_told(page):
    run, url = page
    run.can_save = False
    with Looker(url) as looker:
        thread = run.in_background()
        looker.until(lambda: looker.buffers_sent)
        looker.press("Checkpoint now")
        looker.until(lambda: any("could not be written" in str(message) for message in looker.messages))
        run.stopped = True
        assert ends(thread)


def test_a_signal_ends_the_pause(page):
    run, url = page
    with Looker(url) as looker:
        thread = run.in_background()
        looker.until(lambda: looker.buffers_sent)
        looker.press("Pause")
        looker.until(lambda: "**Paused**" in looker.text())
        run.stopped = True
        assert ends(thread)


def test_the_pause_outlasts_who_pressed_it_and_the_next_may_end_it(page):
    run, url = page
    thread = run.in_background()
    with Looker(url) as looker:
        looker.until(lambda: looker.buffers_sent)
        looker.press("Pause")
        looker.until(lambda: "**Paused**" in looker.text())
    at = run.iteration
    time.sleep(0.3)
    assert run.iteration == at
    with Looker(url) as second:
        second.until(lambda: "**Paused**" in second.text() and second.buffer)
        second.press("Resume")
        second.until(lambda: run.iteration > at)
    run.stopped = True
    assert ends(thread)


def test_the_finished_program_stays_only_for_who_asked():
    lines, config = [], load_config([*PAGE, "--iterations", "1"])
    with Viewers(config, lines.append) as viewers, Looker(lines[0].split()[2]) as looker:
        run = Run(viewers, config)
        looker.until(lambda: viewers._page._server.get_clients())
        run.step()
        run.iteration = 0
        looker.until(lambda: "**Finished**" in looker.text())
        looker.set("Stay open at the end", True)
        looker.until(lambda: viewers._page.should_wait(finished=True))
        thread = threading.Thread(target=run.step, daemon=True)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive() and run.told == []
        looker.set("Stay open at the end", False)
        assert ends(thread)


def test_the_region_map_is_on_the_page():
    lines, config = [], load_config([*PAGE, "--CoGradParams.enabled", "true"])
    cograd = CoGrad(config.cograd, torch.linspace(0.999, 0.01, 1000), 100)
    cograd.plan(1, 2, torch.Generator())
    with Viewers(config, lines.append) as viewers, Looker(lines[0].split()[2]) as looker:
        run = Run(viewers, config, maps=cograd.maps)
        thread = run.in_background()
        looker.until(lambda: looker.pictures and len(looker.pictures[-1]) > 1000)  # before it is one pixel
        run.stopped = True
        assert ends(thread) and run.told == []
    shown = cv2.imdecode(np.frombuffer(looker.pictures[-1], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert any(
        np.array_equal(shown, region_image(cograd.maps(), step, config.cograd))
        for step in range(1, run.iteration + 1)
    )


def test_the_camera_is_turned_for_who_asks_and_the_lens_changed_for_all(page):
    _, url = page
    with Looker(url) as looker, Looker(url) as other:
        for each in (looker, other):
            each.until(lambda: len(page[0].viewers._page._server.get_clients()) == 2)
            each.until(lambda each=each: any(props.get("label") == "Azimuth" for props in each.panel.values()))
        looker.set("Azimuth", "90°")
        looker.until(
            lambda: any(said["type"] == "SetCameraPositionMessage" and not said["initial"] for said in looker.messages)
        )
        at = [said["position"] for said in looker.messages if said["type"] == "SetCameraPositionMessage"][-1]
        assert at == pytest.approx((Config().cameras.default_radius, 0.0, 0.0), abs=1e-6)
        looker.set("Field of view", 60.0)
        for each in (looker, other):
            each.until(
                lambda each=each: any(
                    said["type"] == "SetCameraFovMessage" and abs(said["fov"] - 1.0472) < 1e-4 and not said["initial"]
                    for said in each.messages
                )
            )
        with Looker(url) as reloaded:
            reloaded.until(lambda: any(props.get("label") == "Azimuth" for props in reloaded.panel.values()))
            lenses = [said["fov"] for said in reloaded.messages if said["type"] == "SetCameraFovMessage"]
            assert lenses[-1] == pytest.approx(1.0472, abs=1e-4)
        assert not any(said["type"] == "SetCameraPositionMessage" and not said["initial"] for said in other.messages)


def test_a_page_that_cannot_be_filled_is_closed_and_training_goes_on(page, monkeypatch):
    run, url = page

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(GaussianModel, "get_covariance", broken)
    with Looker(url):
        thread = run.in_background()
        until(lambda: run.told)
        at = run.iteration
        until(lambda: run.iteration > at)
        assert run.told == ["the viewer's page is closed, its data could not be sent (out of memory); training continues"]
        run.stopped = True
        assert ends(thread)


@pytest.fixture
def clock(monkeypatch):
    """The time of the SIBR viewer's socket and of a run that is held."""
    clock = Clock()
    monkeypatch.setattr(network_gui, "time", clock)
    monkeypatch.setattr(viewer.viewers, "time", clock)
    return clock


@pytest.fixture
def sibr(clock):
    """(run, connection) of a SIBR viewer of a run of one step."""
    lines, config = [], load_config(["--text", "a mug", "--port", "0", "--iterations", "2"])
    with Viewers(config, lines.append) as viewers:
        viewers._sibr.timeout_s = 0.2
        with socket.create_connection(("127.0.0.1", int(lines[0].split(":")[-1])), timeout=PATIENCE_S) as connection:
            yield Run(viewers, config), connection


def step_that_answers(run, clock):
    """Repeats a step until the viewer's message has come; the seconds, by the clock, of the step that answered it."""
    iteration, before = run.iteration, run.viewers._sibr._pending

    def step():
        run.iteration, began_s = iteration, clock.now
        run.step()
        return None if run.viewers._sibr._pending is before else (clock.now - began_s,)

    return until(step)[0]


def test_a_sibr_viewer_holds_the_run_until_it_falls_silent(sibr, clock):
    run, connection = sibr
    connection.sendall(packed(REQUEST | {"resolution_x": 0, "train": 0}))
    assert 0.2 <= step_that_answers(run, clock) < 0.3 and run.held > 0
    assert read_exactly(connection, 4)


def test_a_sibr_viewer_keeps_the_finished_program_only_if_it_says_so(sibr, clock):
    run, connection = sibr
    for keep_alive, least in ((False, 0.0), (True, 0.2)):
        run.iteration = 1
        connection.sendall(packed(REQUEST | {"resolution_x": 0, "keep_alive": keep_alive}))
        assert least <= step_that_answers(run, clock) < least + 0.1


def test_a_sibr_viewer_is_answered_with_the_run_folder(sibr, clock):
    run, connection = sibr
    connection.sendall(packed(REQUEST))
    step_that_answers(run, clock)
    assert read_exactly(connection, 72 + 4 + len("output/debug"))[-12:] == b"output/debug"
