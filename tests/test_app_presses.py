# SPDX-License-Identifier: Apache-2.0
"""A double-click on a button of app.py is one press of it, and none of the button that takes its place."""

import signal
from pathlib import Path

from tests.browser import browser_page, needs_browser
from tests.patience import PATIENCE_S, until
from tests.web_page import open_page, process_of, serve

TRAIN = """
import pathlib, signal, sys, time
folder, asked = pathlib.Path(sys.argv[2]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(folder / "heeds").touch()
while not (asked and (folder.parent / "step_ends").exists()):
    time.sleep(0.02)
(folder / "chkpnt4.safetensors").write_text("x")
sys.exit(75)
"""
APP = """
import pathlib, sys
import app
from apps.web import job
job.TRAIN = pathlib.Path(__file__).with_name("train.py")
sys.exit(app.main(sys.argv[1:]))
"""


@needs_browser
def test_a_double_click_is_one_press(tmp_path) -> None:
    (tmp_path / "app_alone.py").write_text(APP)
    (tmp_path / "train.py").write_text(TRAIN)
    out = tmp_path / "out"
    server, address = serve(out, program=tmp_path / "app_alone.py")
    try:
        with browser_page() as page:
            open_page(page, address)
            page.get_by_label("Prompt", exact=True).fill("a red mug")
            _start_and_stop(page, out)
            page.get_by_label("Prompt", exact=True).fill("a dragon")
            page.get_by_role("button", name="Start", exact=True).dblclick()
            page.get_by_role("button", name="Start anyway").dblclick()
            page.get_by_label("The run").get_by_text("a dragon", exact=True).wait_for()
            _stop_at_once(page, out / "a-dragon")
        assert [path.name for path in sorted(out.glob("*/"))] == ["a-dragon", "a-red-mug"]
    finally:
        (out / "step_ends").touch()
        server.send_signal(signal.SIGINT)
        printed = server.communicate(timeout=PATIENCE_S)[0]
    assert "Traceback" not in printed and server.returncode == 0, printed


def _start_and_stop(page, out: Path) -> None:
    """Starts, stops after a long step, resumes, and stops a run at once: all by double-clicks but the last."""
    run, state = out / "a-red-mug", page.get_by_role("status")
    page.get_by_role("button", name="Start", exact=True).dblclick()
    until((run / "heeds").exists)
    page.get_by_role("button", name="Stop", exact=True).dblclick()
    page.get_by_role("button", name="Stop at once").wait_for()
    assert process_of(run, "train.py") and not page.get_by_text("Queued: ").is_visible()
    (out / "step_ends").touch()
    state.get_by_text("stopped", exact=True).wait_for()
    page.get_by_text("The checkpoint of step 4 is kept").wait_for()
    (out / "step_ends").unlink()
    (run / "heeds").unlink()
    page.get_by_role("button", name="Resume").dblclick()  # Stop takes its place
    until((run / "heeds").exists)
    state.get_by_text("starting", exact=True).wait_for()
    _stop_at_once(page, run)


def _stop_at_once(page, run: Path) -> None:
    until((run / "heeds").exists)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Stop at once").dblclick()  # Resume takes its place
    page.get_by_role("status").get_by_text("stopped", exact=True).wait_for()
    assert process_of(run, "train.py") is None
