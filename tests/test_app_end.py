# SPDX-License-Identifier: Apache-2.0
"""How app.py ends: with a checkpoint of its run and no process left, whatever ends it and whoever downloads."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S, until
from tests.web_page import is_open, process_of, serve

TRAIN = """
import pathlib, signal, sys, time
folder, asked = pathlib.Path(sys.argv[2]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(folder / "heeds").touch()
while not asked:
    time.sleep(0.02)
(folder / "chkpnt4.safetensors").write_text("x")
sys.exit(75)
"""
EXPORT = "import sys, time\nfor _ in range(100_000):\n    time.sleep(0.1)\n"
APP = """
import pathlib, sys
import app
from apps.web import exports, job, server_state

class Busy(server_state.ServerState):
    def __init__(self, output):
        super().__init__(output)
        self.resume(self.find("mug"))
        self.exports.request(output / "saved", "spz")

here = pathlib.Path(__file__).parent
job.TRAIN, exports.EXPORT, server_state.ServerState = here / "train.py", here / "export.py", Busy
sys.exit(app.main(sys.argv[1:]))
"""


@pytest.fixture
def busy(tmp_path) -> Iterator[tuple[Path, Path]]:
    """(A program that serves the page with a run and an export at work, its output folder)."""
    for name, text in (("app_busy.py", APP), ("train.py", TRAIN), ("export.py", EXPORT)):
        (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    for name in ("mug", "saved"):
        (out / name).mkdir(parents=True)
        (out / name / "config.yaml").write_text("OptimizationParams: {iterations: 9}\n")
    (out / "mug" / "chkpnt3.safetensors").write_text("x")
    cloud = out / "saved" / "point_cloud" / "iteration_3" / "point_cloud.ply"
    cloud.parent.mkdir(parents=True)
    cloud.write_text("ply")
    (out / "saved" / "export").mkdir()
    with (out / "saved" / "export" / "saved_3.glb").open("wb") as file:
        file.truncate(1 << 28)  # more than any socket takes in advance
    yield tmp_path / "app_busy.py", out
    for name, program in (("mug", "train.py"), ("saved", "export.py")):
        if left := process_of(out / name, program):
            os.kill(left, signal.SIGKILL)


def _paused_download(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    visitor = socket.create_connection((host, int(port)))
    visitor.sendall(f"GET /runs/saved/scene.glb HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert visitor.recv(12) == b"HTTP/1.1 200"
    return visitor


def _end(server: subprocess.Popen, address: str, numbers: list[int]) -> str:
    """Sends the signals, the second one once nobody new is answered; returns what the server has printed."""
    port = int(address.rpartition(":")[2])
    for number in numbers:
        server.send_signal(number)
        until(lambda: not is_open(port), "the server still listens")
    return server.communicate(timeout=PATIENCE_S)[0]


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGINT] * 2,
        [signal.SIGTERM],
        [signal.SIGHUP],
        pytest.param([signal.SIGINT], marks=pytest.mark.slow),
        pytest.param([signal.SIGQUIT, signal.SIGINT], marks=pytest.mark.slow),
    ],
    ids=lambda numbers: "-".join(number.name for number in numbers),
)
def test_every_end_of_the_server_stops_the_run_with_a_checkpoint(busy, numbers) -> None:
    program, out = busy
    server, address = serve(out, program=program)
    until((out / "mug" / "heeds").exists)
    run, export = process_of(out / "mug", "train.py"), process_of(out / "saved", "export.py")
    assert run and export
    with _paused_download(address):
        printed = _end(server, address, numbers)
    assert (server.returncode, printed) == (0, "")
    assert (out / "mug" / "chkpnt4.safetensors").exists()
    assert not Path(f"/proc/{run}").exists() and not Path(f"/proc/{export}").exists()


def test_a_server_under_nohup_outlives_its_terminal(busy) -> None:
    program, out = busy
    server, address = serve(out, program=program, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    status = Path(f"/proc/{server.pid}/status").read_text()
    ignored = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")), 16)
    assert ignored >> (signal.SIGHUP - 1) & 1
    until((out / "mug" / "heeds").exists)
    _end(server, address, [signal.SIGTERM])
    assert (out / "mug" / "chkpnt4.safetensors").exists()
