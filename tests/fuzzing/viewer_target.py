# SPDX-License-Identifier: Apache-2.0
"""The remote viewer's protocol: a script of what a stranger sends, in which pieces, and when it falls silent or goes.

The server is real; sockets are pairs inside the process and time is a number, so that waiting costs nothing.
"""

import contextlib
import json
import math
import socket
import struct
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st

import gaussian_renderer
from arguments import PipelineParams
from gaussian_renderer import network_gui
from gaussian_renderer.network_gui import LENGTH, MAX_MESSAGE_BYTES, MAX_PIXELS, NetworkGui
from scene.dataset_readers import BasicPointCloud
from scene.gaussian_model import GaussianModel
from tests.fuzzing.engine import CORPUS, LawBroken, Target
from tests.fuzzing.mutations import damaged
from tests.patience import Clock

GOOD = (CORPUS / "viewer" / "good.json").read_bytes()
FIELDS = json.loads(GOOD)
DRAWN_PX = 2000
"""Pictures up to this many pixels are rendered; of larger ones only the size is answered."""

TOKENS = [b"NaN", b"Infinity", b"true", b"null", b"[", b"{", b"1e400", b"\\ud800", b'"', b",", b"0.5", b"4096"]
NUMBERS = st.floats() | st.floats(-2, 2) | st.integers() | st.sampled_from([0, 1, 16, 1e-30, 1e9, -1e9, math.pi])
MATRICES = st.lists(NUMBERS, min_size=16, max_size=16) | st.lists(st.floats(-2, 2), min_size=16, max_size=16)
VALUES = NUMBERS | MATRICES | st.none() | st.booleans() | st.text(max_size=3) | st.lists(NUMBERS, max_size=17)
MATRIX_FIELDS = st.sampled_from(["view_matrix", "view_projection_matrix"])
CHANGES = st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES, max_size=3) | st.dictionaries(
    MATRIX_FIELDS, MATRICES
)
MESSAGES = (
    CHANGES.map(lambda changes: json.dumps(FIELDS | changes).encode())
    | damaged([GOOD], TOKENS)
    | st.binary(max_size=40)
)


def _framed(message: bytes) -> bytes:
    return LENGTH.pack(len(message)) + message


LENGTHS = st.sampled_from([0, 1, 5, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1, 2**31, 2**32 - 1])
STREAMS = (
    MESSAGES.map(_framed) | st.builds(lambda n, rest: LENGTH.pack(n) + rest, LENGTHS, st.binary(max_size=30)) | MESSAGES
)
STEPS = (
    st.tuples(st.just("send"), STREAMS)
    | st.tuples(st.just("trickle"), STREAMS)
    | st.tuples(st.just("wait"), st.sampled_from([0.01, 1.0, 100.0]))
    | st.tuples(st.just("newcomer"), st.none())
    | st.tuples(st.just("read"), st.none())
    | st.tuples(st.sampled_from(["close", "shutdown"]), st.none())
)


class Door:
    """Stands for the listening socket: gives the connections that were put into it."""

    def __init__(self) -> None:
        self.waiting: list[socket.socket] = []

    def connect(self) -> socket.socket:
        inside, outside = socket.socketpair()
        outside.setblocking(False)
        self.waiting.append(inside)
        return outside

    def accept(self) -> tuple[socket.socket, None]:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0), None

    def close(self) -> None:
        for connection in self.waiting:
            connection.close()


def _gaussians() -> GaussianModel:
    points = np.random.RandomState(0).randn(12, 3) * 0.3
    gaussians = GaussianModel(1, "cpu")
    gaussians.create_from_pcd(BasicPointCloud(points, np.full((12, 3), 0.5), np.zeros((12, 3))), 1.0)
    return gaussians


GAUSSIANS, PIPE, BACKGROUND = _gaussians(), PipelineParams(), torch.ones(3)
RENDER = gaussian_renderer.render


def _render(camera: Any, *others: Any) -> dict[str, torch.Tensor]:
    pixels = camera.image_width * camera.image_height
    if pixels > MAX_PIXELS or not camera.camera_center.isfinite().all():
        raise LawBroken("a request beyond the limits was passed on")
    if pixels > DRAWN_PX:
        return {"render": torch.zeros(3, 1, 1).expand(3, camera.image_height, camera.image_width)}
    return RENDER(camera, *others)


class Stranger:
    """Plays a script against the server, an iteration of the training after each step."""

    def __init__(self, gui: NetworkGui, door: Door, clock: Clock) -> None:
        self.gui, self.door, self.clock = gui, door, clock
        self.connections = [door.connect()]

    def iterate(self) -> None:
        self.clock.now += 0.01
        while True:  # as viewer.viewers does
            network_gui.answer(self.gui, GAUSSIANS, PIPE, BACKGROUND, "v")
            if not self.gui.wants_to_hold(finished=False):
                break
            self.clock.sleep(0.005)
        if len(self.gui._received) > MAX_MESSAGE_BYTES + LENGTH.size:
            raise LawBroken(f"{len(self.gui._received)} bytes are kept")

    def play(self, step: str, argument: Any) -> None:
        if step == "newcomer":
            self.connections.append(self.door.connect())
        elif step == "wait":
            self.clock.now += argument
        with contextlib.suppress(OSError):  # its own connection may be closed already
            if step == "send":
                self.connections[-1].send(argument)
            elif step == "read":
                self.connections[-1].recv(1 << 16)
            elif step == "close":
                self.connections[-1].close()
            elif step == "shutdown":
                self.connections[-1].shutdown(socket.SHUT_RD)
            elif step == "trickle":
                for start in range(0, len(argument), max(1, len(argument) // 4)):
                    self.connections[-1].send(argument[start : start + max(1, len(argument) // 4)])
                    self.iterate()
        self.iterate()


def law(script: list[tuple[str, Any]]) -> bool:
    """Whatever the script, the training goes on and the next good viewer gets its picture. True: some request was read."""
    clock, door = Clock(), Door()
    gui = NetworkGui(timeout_s=0.05)
    gui._listener = door  # type: ignore[assignment]
    with mock.patch.object(network_gui, "time", clock), mock.patch.object(gaussian_renderer, "render", _render):
        stranger = Stranger(gui, door, clock)
        heard = False
        for step, argument in script:
            stranger.play(step, argument)
            heard = heard or gui._pending is not None
        clock.now += 1.0
        try:
            _expect_an_answer(gui, door, stranger)
        finally:
            for connection in stranger.connections:
                connection.close()
            gui.close()
    return heard


def _expect_an_answer(gui: NetworkGui, door: Door, stranger: Stranger) -> None:
    for connection in stranger.connections[:-1]:
        connection.close()
    with door.connect() as viewer:
        for _ in range(len(stranger.connections) + 3):
            stranger.iterate()  # those who waited before it come and go
            stranger.clock.now += 1.0
        with contextlib.suppress(BrokenPipeError):
            viewer.send(_framed(GOOD))
        stranger.iterate()
        wanted = FIELDS["resolution_x"] * FIELDS["resolution_y"] * 3 + struct.calcsize("<I") + 1
        try:
            answer = viewer.recv(wanted + 1)
        except BlockingIOError:
            answer = b""
        if len(answer) != wanted:
            raise LawBroken(f"the next viewer got {len(answer)} bytes instead of {wanted}")


def _read(path: Path) -> list[tuple[str, Any]]:
    """*.json is a message that is sent as it should be, *.bin what stands on the wire."""
    content = path.read_bytes()
    return [("trickle", _framed(content) if path.suffix == ".json" else content), ("close", None)]


VIEWER = Target("viewer", st.lists(STEPS, max_size=6), law, _read)
