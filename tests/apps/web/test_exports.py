# SPDX-License-Identifier: Apache-2.0
"""Exports in processes of their own, by a stand-in that does what the file `what` says; and by the real one."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from apps.web import exports
from apps.web.exports import DOWN, UP, Exports, ready_export
from scene.ply import read_vertices
from tests.export.scenes import lopsided
from tests.patience import PATIENCE_S, until
from tests.web_page import serve, status

STAND_IN = """
import os, pathlib, signal, sys, time
run, format, out, step, up = sys.argv[1:]
what = (pathlib.Path(run) / "what").read_text()
part = pathlib.Path(out).with_name(f".{pathlib.Path(out).name}.abcd_123.part")
part.write_text("half")
print("noise\\n45 % baking the texture", flush=True)
if what == "fail":
    sys.exit("export: the Gaussians are too transparent")
if what == "die":
    signal.raise_signal(signal.SIGKILL)
while (pathlib.Path(run) / "what").read_text() == "hold":
    time.sleep(0.01)
part.write_text(f"{format} of {step} by {os.getpid()}")
part.rename(out)
"""


SERVER = """
import sys
from pathlib import Path
from nicegui import app
from apps.web import exports
from apps.web.server import serve
from apps.web.server_state import ServerState
from utils.addresses import free_port

stand_in, folder = map(Path, (sys.argv[0], sys.argv[sys.argv.index("--output") + 1]))
exports.EXPORT = stand_in.with_name("stand_in.py")
server = ServerState(folder)
app.on_startup(lambda: server.exports.request(folder / "mug", "glb"))
serve(server, "127.0.0.1", free_port("127.0.0.1", 0))
"""
REQUESTS = 50


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run with a saved scene; its exports are made by the stand-in."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(exports, "EXPORT", script)
    folder = tmp_path / "mug"
    folder.mkdir()
    (folder / "what").write_text("make")
    _save_scene(folder, 4)
    return folder


def _save_scene(folder: Path, step: int) -> Path:
    cloud = folder / "point_cloud" / f"iteration_{step}" / "point_cloud.ply"
    cloud.parent.mkdir(parents=True, exist_ok=True)
    cloud.write_text("ply")
    return cloud


def _end(made: Exports, folder: Path, format: str, up: str = UP) -> None:
    until(lambda: made.tick() or made.progress(folder, format, up) is None, poll_s=0.05)


def test_an_export_is_made_once_and_again_for_a_newer_scene(run) -> None:
    made = Exports()
    made.request(run, "splat")
    _end(made, run, "splat")
    path = ready_export(run, "splat")
    assert path == run / "export" / "mug_4.splat"
    first = path.read_text()
    assert first.startswith("splat of 4 by ") and not first.endswith(f" {os.getpid()}")  # another process
    made.request(run, "splat")
    assert made.progress(run, "splat") is None and path.read_text() == first
    os.utime(_save_scene(run, 4), (time.time() + 9, time.time() + 9))
    assert ready_export(run, "splat") is None
    made.request(run, "splat")
    _end(made, run, "splat")
    assert path.read_text() != first


def test_the_export_of_a_scene_from_the_future_is_ready_once(run) -> None:
    """Another machine's clock, or this one's before it was set, may have dated the scene."""
    made = Exports()
    ahead = time.time() + 86_400
    os.utime(_save_scene(run, 4), (ahead, ahead))
    made.request(run, "html")
    _end(made, run, "html")
    assert made.problem(run, "html") == "" and ready_export(run, "html") is not None
    os.utime(_save_scene(run, 4), (ahead + 9, ahead + 9))  # a newer one
    assert ready_export(run, "html") is None


def test_a_scene_that_is_saved_during_an_export_is_exported_too(run) -> None:
    """As by a run in progress: whoever has asked gets the newest, not nothing."""
    made = Exports()
    (run / "what").write_text("hold")
    made.request(run, "splat")
    until(lambda: made.progress(run, "splat").part == "baking the texture")
    _save_scene(run, 8)
    (run / "what").write_text("make")
    _end(made, run, "splat")
    assert ready_export(run, "splat").read_text().startswith("splat of 8 by ")


def test_what_is_there_waits_for_nothing_and_the_rest_is_queued(run) -> None:
    """The caller is not held up while an export is made: this test continues while the first one cannot end."""
    made = Exports()
    made.request(run, "ply")
    _end(made, run, "ply")
    (run / "what").write_text("hold")
    made.request(run, "glb")
    made.request(run, "spz")
    made.request(run, "glb")  # a second visitor
    made.tick()
    made.request(run, "ply")
    assert ready_export(run, "ply") is not None and made.progress(run, "ply") is None
    assert made.progress(run, "spz").part == "queued"
    until(lambda: made.progress(run, "glb").part == "baking the texture")
    assert made.progress(run, "glb").done == 0.45 and ready_export(run, "glb") is None
    (run / "what").write_text("make")
    _end(made, run, "spz")
    assert ready_export(run, "glb") is not None and ready_export(run, "spz") is not None


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("fail", "the Gaussians are too transparent"),
        ("die", "The glb export was ended by signal 9; perhaps there was too little memory."),
    ],
)
def test_an_export_that_fails_says_why_until_it_is_requested_again(run, what, sentence) -> None:
    made = Exports()
    (run / "what").write_text(what)
    made.request(run, "glb")
    _end(made, run, "glb")
    assert made.problem(run, "glb") == sentence and made.problem(run, "ply") == ""
    assert list((run / "export").iterdir()) == []  # what it had begun to write is gone
    (run / "what").write_text("make")
    made.request(run, "glb")
    assert made.problem(run, "glb") == ""
    _end(made, run, "glb")
    assert ready_export(run, "glb") is not None


def test_nothing_is_made_without_a_scene_or_through_a_link(run, tmp_path) -> None:
    made = Exports()
    made.request(tmp_path / "empty", "ply")
    assert made.problem(tmp_path / "empty", "ply").startswith("No scene is saved yet")
    (run / "export").symlink_to(tmp_path)
    made.request(run, "ply")
    assert made.problem(run, "ply").endswith("is a link to another folder; remove it.")
    assert ready_export(run, "exe") is None


def test_a_full_disk_is_a_sentence_of_the_export(run, monkeypatch) -> None:
    def full() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    made = Exports()
    with monkeypatch.context() as patched:
        patched.setattr(exports.tempfile, "TemporaryFile", full)
        made.request(run, "glb")
    assert "No usable temporary directory" in made.problem(run, "glb") and made.progress(run, "glb") is None
    made.request(run, "glb")
    assert made.problem(run, "glb") == ""
    _end(made, run, "glb")
    assert ready_export(run, "glb") is not None


def test_the_exports_of_a_run_can_be_dropped(run) -> None:
    made = Exports()
    (run / "what").write_text("hold")
    made.request(run, "glb")
    (export,) = made._queue
    made.drop(run.parent / "another")
    assert not export.is_over
    made.drop(run)
    assert export.is_over and made.progress(run, "glb") is None and ready_export(run, "glb") is None


CANCELLED = "The glb export was cancelled; its tile makes it again."


def test_a_cancelled_export_leaves_nothing_and_the_next_one_starts(run) -> None:
    made = Exports()
    (run / "what").write_text("hold")
    for format in ("glb", "spz", "sog"):
        made.request(run, format)
    until(lambda: made.progress(run, "glb").part == "baking the texture")
    (export, *_) = made._queue
    made.cancel(run, "sog")
    made.cancel(run, "glb")
    assert made.progress(run, "glb") is None is made.progress(run, "sog")
    assert made.problem(run, "glb") == CANCELLED and made.problem(run, "sog") and not made.problem(run, "spz")
    until(lambda: made.tick() or made.progress(run, "spz").part == "baking the texture")
    assert export.is_over and [path.name for path in (run / "export").iterdir()] == [".mug_4.spz.abcd_123.part"]
    (run / "what").write_text("make")
    _end(made, run, "spz")
    assert [path.name for path in (run / "export").iterdir()] == ["mug_4.spz"]
    assert made.problem(run, "glb") == CANCELLED  # until it is requested again
    made.request(run, "glb")
    assert made.problem(run, "glb") == ""
    _end(made, run, "glb")
    assert ready_export(run, "glb") is not None


def test_who_cancels_and_requests_at_once_gets_the_export(run) -> None:
    made = Exports()
    (run / "what").write_text("hold")
    made.request(run, "glb")
    until(lambda: made.progress(run, "glb").part == "baking the texture")
    made.cancel(run, "glb")
    made.request(run, "glb")
    made.cancel(run, "ply")  # nobody makes it
    (run / "what").write_text("make")
    _end(made, run, "glb")
    assert ready_export(run, "glb") is not None and made.problem(run, "glb") == "" == made.problem(run, "ply")


def test_an_export_that_ends_as_it_is_cancelled_is_there(run, monkeypatch) -> None:
    made = Exports()
    (run / "what").write_text("hold")
    made.request(run, "glb")
    (export,) = made._queue
    monkeypatch.setattr(export, "_kill", lambda: None)  # too late for it
    made.cancel(run, "glb")
    (run / "what").write_text("make")
    until(lambda: export.is_over)
    made.tick()
    assert ready_export(run, "glb") is not None and made.problem(run, "glb") == ""


def test_the_server_answers_while_an_export_is_made(run) -> None:
    """The export waits until every request was answered, so that a server which waited for it would hang here.

    How soon it answers: benchmarks/web_page.py.
    """
    (run / "what").write_text("hold")
    (run / "config.yaml").write_text("OptimizationParams: {iterations: 4}\n")
    (run.parent / "server.py").write_text(SERVER)
    server, address = serve(run.parent, program=run.parent / "server.py")
    until(lambda: list(run.glob("export/.*.part")))
    for _ in range(REQUESTS):
        assert status(f"{address}/") == status(f"{address}/runs/mug/config.yaml") == 200
    assert ready_export(run, "glb") is None
    (run / "what").write_text("make")
    until(lambda: ready_export(run, "glb"))
    server.send_signal(signal.SIGINT)
    assert "Traceback" not in server.communicate(timeout=PATIENCE_S)[0]


def test_the_real_process_writes_a_file_and_refuses_in_a_sentence(tmp_path) -> None:
    made, folder = Exports(), tmp_path / "mug"
    lopsided().save_ply(str(_save_scene(folder, 4)))
    made.request(folder, "ply")
    _end(made, folder, "ply")
    upright = ready_export(folder, "ply")
    made.request(folder, "ply", DOWN)
    _end(made, folder, "ply", DOWN)
    assert ready_export(folder, "ply", DOWN) != upright == ready_export(folder, "ply")
    y, flipped = (read_vertices(path)["y"] for path in (upright, ready_export(folder, "ply", DOWN)))
    assert np.array_equal(flipped, -y) and ready_export(folder, "ply", "z") is None
    _save_scene(folder, 5).write_text("text")
    made.request(folder, "ply")
    _end(made, folder, "ply")
    assert "is not a PLY file" in made.problem(folder, "ply") and "\n" not in made.problem(folder, "ply")
