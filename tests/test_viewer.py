# SPDX-License-Identifier: Apache-2.0
"""train.py --viewer as a user meets it: a run that is watched, paused, saved, and ends as if nobody had looked."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
import torch

import train
from arguments import Config
from arguments.load import load_config
from gaussian_renderer import render
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from tests.browser import PICTURES, browser_page, needs_browser, screenshot
from tests.patience import PATIENCE_S, until
from tests.reliability.same_run import differences
from tests.viewer.looker import Looker
from utils.tree_file import load_tree

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "iterations": 8, "image_w": 16, "image_h": 16, "view_px": 16, "init_num_pts": 60, "guidance": "ideal", "perpneg": False,
    "text": "a red cube", "device": "cpu", "pro_frames_num": 4, "C_batch_size": 2, "densify_from_iter": 1, "test_ratio": 1,
    "densification_interval": 4, "densify_grad_threshold": 1e-7, "save_video": False, "vis_interval": 5, "checkpoint_every": 4,
    "CoGradParams.enabled": True, "azimuth_levels": 4, "keep_last_checkpoint": True, "quiet": True,
}  # fmt: skip
WATCHED = {"viewer_port": 0, "viewer_interval": 0}
SEEN_AT = 500 if PICTURES else 60  # the step whose scene is looked at; the README's picture takes longer
MORE = 150  # steps of that run after it
PICTURE_RUN = {
    "view_px": 32,
    "test_ratio": 1,
    "save_video": False,
    "save_process": False,
    "vis_interval": 10_000,
    "quiet": True,
}
PICTURE_RUN |= {} if PICTURES else {"image_w": 64, "image_h": 64, "init_num_pts": 2000}
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
VISERS_OWN = (
    "THREE.Clock: This module has been deprecated",
    "THREE.BufferGeometry.computeBoundingSphere(): Computed radius is NaN",  # of its Gaussians, whatever they are
    "Failed to load resource: net::ERR_FILE_NOT_FOUND",  # it frees a picture that a newer one replaces while it is read
)
PAGE_PX = (1200, 820) if PICTURES else (720, 360)


def argv(folder, settings, **changes):
    return [
        word
        for name, value in {**settings, "model_path": folder, **changes}.items()
        for word in (f"--{name}", str(value))
    ]


def log_length(folder):
    path = folder / "log.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def meddle(told, meddling):
    """Calls meddling(looker) once the page of the run in this process is open; ends the run if that fails."""
    try:
        until(lambda: "viewer: open" in told.getvalue())
        with Looker(told.getvalue().split()[2]) as looker:
            looker.until(lambda: looker.buffers_sent)
            meddling(looker)
    except BaseException:
        os.kill(os.getpid(), signal.SIGINT)  # it may be paused, and would wait for ever
        raise


def meddled_with(folder, monkeypatch, meddling, **changes):
    """Exit status of a run in this process while somebody looks; its steps take long enough to look at."""
    told, sound = io.StringIO(), train.apply_update
    monkeypatch.setattr(train, "apply_update", lambda *args: time.sleep(0.1) or sound(*args))
    monkeypatch.setattr(sys, "stdout", told)
    helper = threading.Thread(target=meddle, args=(told, meddling))
    helper.start()
    status = train.main(argv(folder, SMALL, **WATCHED, **changes))
    helper.join()
    return status


def test_looking_pausing_and_saving_change_nothing(tmp_path, monkeypatch):
    """All files but the checkpoints: there are others, and the last is the same."""
    saw = []

    def look_around(looker):
        for _ in range(2):
            looker.press("Pause")
            looker.until(lambda: "**Paused**" in looker.text())
            looker.press("Checkpoint now")
            looker.until(lambda: str(looker.messages).count("is written") > len(saw))
            saw.append(looker.text())
            looker.press("Resume")
            looker.until(lambda: "**Paused**" not in looker.text())

    assert train.main(argv(tmp_path / "alone", SMALL)) == 0
    assert meddled_with(tmp_path / "watched", monkeypatch, look_around) == 0 and len(saw) == 2
    files = differences(tmp_path / "alone", tmp_path / "watched")
    assert [name for name in files if name[:6] != "chkpnt" or name == "chkpnt8.safetensors"] == []


def test_a_signal_ends_a_paused_run_with_a_checkpoint(tmp_path, monkeypatch, capsys):
    def interrupt(looker):
        looker.press("Pause")
        looker.until(lambda: "**Paused**" in looker.text())
        os.kill(os.getpid(), signal.SIGINT)

    assert meddled_with(tmp_path, monkeypatch, interrupt, iterations=100_000) == 75
    at = log_length(tmp_path)
    assert f"Received SIGINT; stopped after step {at}. Resume with --resume" in capsys.readouterr().err
    assert (tmp_path / f"chkpnt{at}.safetensors").is_file()


@pytest.mark.parametrize(
    "changes", [{"viewer_port": -1}, {"viewer_host": "here"}, {"viewer_interval": -1}, {"viewer_port": "taken"}]
)
def test_what_cannot_be_served_is_met_before_weights_load(tmp_path, monkeypatch, capsys, changes):
    def loaded(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(train, "load_prior_and_prompts", loaded)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        if changes == {"viewer_port": "taken"}:
            changes = {"viewer_port": taken.getsockname()[1]}
        assert train.main(argv(tmp_path / "bad", SMALL, **changes)) == 2
    error = capsys.readouterr().err
    assert "viewer" in error and "Traceback" not in error


def test_a_missing_viser_is_met_before_weights_load(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.delitem(sys.modules, "viewer.web_viewer", raising=False)
    assert train.main(argv(tmp_path / "bad", SMALL, viewer=True)) == 2
    assert (
        "pip install -r requirements-extra.txt" in capsys.readouterr().err
        and not (tmp_path / "bad" / "config.yaml").exists()
    )


def drawn(page):
    """What the canvas shows, on white, float [H, W, 3] in 0..1."""
    url = page.evaluate("document.querySelector('canvas[data-engine]').toDataURL()")
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED) / 255.0
    return picture[..., 2::-1] * picture[..., 3:] + 1 - picture[..., 3:]


def rendered(checkpoint, height, width):
    """Our renderer's picture of a checkpoint's scene from the page's first camera, [H, W, 3]."""
    cameras = load_config(["--opt", QUICKSTART]).cameras
    gaussians = GaussianModel(0, "cpu")
    gaussians._set_parameters(load_tree(checkpoint)["train"]["gaussians"]["parameters"])
    camera = camera_at(
        cameras.default_radius, cameras.default_polar, cameras.default_azimuth, cameras.default_fovy, width, height
    )
    with torch.no_grad():
        return render(camera, gaussians, Config().pipeline, torch.ones(3))["render"].permute(1, 2, 0).numpy()


def paused_after(folder, url, step):
    """Has the run paused by a looker that leaves again; the step."""
    until(lambda: log_length(folder) >= step)
    with Looker(url) as looker:
        looker.until(lambda: looker.buffers_sent)
        looker.press("Pause")
        looker.until(lambda: "**Paused**" in looker.text())
    return log_length(folder)


@needs_browser
@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path):
    words = ["--opt", QUICKSTART, *argv(tmp_path, PICTURE_RUN, iterations=SEEN_AT + MORE, viewer_port=0)]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        url = run.stdout.readline().split()[2]
        step = paused_after(tmp_path, url, SEEN_AT)  # so that the browser does not wait for the training
        use_the_page(url, run, tmp_path, step)
        assert run.wait(PATIENCE_S) == 0
    finally:
        run.kill()


def use_the_page(url, run, folder, step):
    """Of a run that is paused after a step: looks, has a checkpoint written, lets it go on, pauses it, lets it go on."""
    with browser_page(*PAGE_PX) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.get_by_text("Paused").wait_for()
        page.get_by_role("button", name="Checkpoint now").click()
        page.get_by_text(f"chkpnt{step}.safetensors is written").wait_for()
        height, width = drawn(page).shape[:2]
        ours = rendered(folder / f"chkpnt{step}.safetensors", height, width)
        until(lambda: np.abs(drawn(page) - ours).mean() < 0.01)  # once the Gaussians have faded in
        theirs = drawn(page)
        flipped = (theirs[::-1], theirs[:, ::-1], theirs[..., ::-1])  # upside down, mirrored, other colours
        assert min(np.abs(other - ours).mean() for other in flipped) > 1.5 * np.abs(theirs - ours).mean()
        page.locator(".mantine-Notification-closeButton").evaluate_all(
            "buttons => buttons.forEach(button => button.click())"
        )
        page.wait_for_timeout(500)
        screenshot(page, "viewer", folder)
        page.get_by_role("button", name="Resume").click()
        until(lambda: log_length(folder) > step)
        run.send_signal(signal.SIGSTOP)  # a browser on a busy machine is slow, and the run must not end before it clicks
        page.get_by_role("button", name="Pause").click()
        run.send_signal(signal.SIGCONT)
        page.get_by_text("Paused").wait_for()
        length = log_length(folder)
        time.sleep(0.5)
        assert step < log_length(folder) == length < SEEN_AT + MORE
        page.get_by_role("button", name="Resume").click()
        assert {urlsplit(name).hostname for name in asked if not name.startswith(("blob:", "data:"))} == {"127.0.0.1"}
        page.complaints[:] = [said for said in page.complaints if not said.startswith(VISERS_OWN)]
