# SPDX-License-Identifier: Apache-2.0
"""The remote viewer's socket on loopback: a good viewer is answered, a bad one costs nothing but its connection."""

import json
import math
import random
import socket
import struct
import threading
import time

import pytest
import torch

import gaussian_renderer
from arguments import Config, PipelineParams
from gaussian_renderer import network_gui
from gaussian_renderer.network_gui import MAX_MESSAGE_BYTES, NetworkGui, answer, parse_request, rgb_bytes
from tests.drawn import Draws
from tests.patience import PATIENCE_S, Clock, until

EYE = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
REQUEST = {
    "resolution_x": 6, "resolution_y": 4, "train": 1, "fov_y": 0.5, "fov_x": 0.7, "z_near": 0.01, "z_far": 100.0,
    "shs_python": False, "rot_scale_python": False, "keep_alive": True, "scaling_modifier": 1.0,
    "view_matrix": EYE, "view_projection_matrix": EYE,
}  # fmt: skip


def packed(fields):
    message = json.dumps(fields).encode()
    return struct.pack("<I", len(message)) + message


def poll_until(gui, done):
    """Polls until `done(request)`, and returns that request."""

    def poll():
        request = gui.poll()
        return (request,) if done(request) else None

    return until(poll, "nothing came of it", poll_s=0.002)[0]


@pytest.fixture
def clock(monkeypatch):
    """The time that the socket goes by."""
    clock = Clock()
    monkeypatch.setattr(network_gui, "time", clock)
    return clock


@pytest.fixture
def gui(clock):
    with NetworkGui(port=0, timeout_s=0.2) as listening:
        yield listening


@pytest.fixture
def viewer(gui):
    with socket.create_connection(("127.0.0.1", gui.port), timeout=PATIENCE_S) as connection:
        yield connection


def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, "closed early"
        data += part
    return data


def dropped(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_is_answered_with_pixels_and_text(gui, viewer):
    image = Draws(1).uniform(3, 4, 6)
    for _ in range(2):
        viewer.sendall(packed(REQUEST))
        request = poll_until(gui, lambda r: r is not None)
        assert request.train and request.keep_alive and not request.shs_python and request.scaling_modifier == 1.0
        assert (request.camera.image_width, request.camera.image_height, request.camera.FoVx) == (6, 4, 0.7)
        assert gui.reply(image, "ä path")
        pixels = torch.frombuffer(bytearray(read_exactly(viewer, 72)), dtype=torch.uint8).reshape(4, 6, 3)
        assert torch.equal(pixels, (image * 255).to(torch.uint8).permute(1, 2, 0))
        (length,) = struct.unpack("<I", read_exactly(viewer, 4))
        assert read_exactly(viewer, length).decode() == "ä path"


def test_axes_of_the_viewer_become_those_of_render():
    rotation = torch.linalg.qr(Draws(2).normal(3, 3))[0]
    view = torch.eye(4)
    view[:3, :3], view[3, :3] = rotation, torch.tensor([0.3, -0.2, 4.0])  # row vectors
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    fields = REQUEST | {"view_matrix": (view * flip).flatten().tolist()}
    fields["view_projection_matrix"] = (view * torch.tensor([1.0, -1.0, 1.0, 1.0])).flatten().tolist()
    camera = parse_request(json.dumps(fields).encode()).camera
    torch.testing.assert_close(camera.world_view_transform, view)
    torch.testing.assert_close(camera.full_proj_transform, view)
    at_centre = torch.cat([camera.camera_center, torch.ones(1)]) @ view
    torch.testing.assert_close(at_centre, torch.tensor([0.0, 0, 0, 1]), atol=1e-6, rtol=0)


def test_a_message_in_pieces_and_two_messages_at_once(gui, viewer):
    message = packed(REQUEST)
    for start in range(0, len(message), 90):
        assert gui.poll() is None
        viewer.sendall(message[start : start + 90])
    poll_until(gui, lambda r: r is not None)
    viewer.sendall(message + packed(REQUEST | {"resolution_x": 0}))
    assert poll_until(gui, lambda r: r is not None).camera is not None
    assert poll_until(gui, lambda r: r is not None).camera is None
    assert gui.reply(None, "") and read_exactly(viewer, 4) == b"\0\0\0\0"


def test_nothing_is_bound_before_listen_and_after_close():
    gui = NetworkGui(port=0)
    assert gui.poll() is None and gui.port == 0 and not gui.reply(None, "x")
    port = gui.listen()
    gui.close()
    gui.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_port_in_use_gives_way_to_a_free_one(gui, caplog):
    with NetworkGui(port=gui.port) as second:
        assert second.port not in (0, gui.port)
        assert f"viewer port {gui.port} on 127.0.0.1 is in use: listening on port {second.port} instead" in caplog.text


def test_it_is_loopback_unless_another_address_is_asked_for(gui):
    assert gui._listener.getsockname()[0] == "127.0.0.1" == Config().ip and not Config().gui


def test_an_address_that_cannot_be_bound_is_told():
    with pytest.raises(
        ValueError, match=r"viewer port 7000 on 192\.0\.2\.1 is not available .*choose another with --port"
    ):
        NetworkGui("192.0.2.1", 7000).listen()  # an address of the documentation: no machine has it
    with pytest.raises(ValueError, match=r"viewer address 'here' given: expected an IP address such as 127\.0\.0\.1"):
        NetworkGui(ip="here").listen()


def test_an_address_beyond_loopback_is_warned_of(caplog):
    with NetworkGui(ip="0.0.0.0", port=0):
        assert "open to every machine that reaches 0.0.0.0" in caplog.text


def test_an_image_of_another_size_is_refused(gui, viewer):
    viewer.sendall(packed(REQUEST))
    poll_until(gui, lambda r: r is not None)
    with pytest.raises(ValueError, match=r"image of shape \(3, 4, 5\) given: expected 72 values, as requested"):
        gui.reply(torch.zeros(3, 4, 5), "")


@pytest.mark.parametrize(
    "sent, told",
    [
        (struct.pack("<I", MAX_MESSAGE_BYTES + 1), "a message of 1048577 bytes announced"),
        (struct.pack("<I", 0), "a message of 0 bytes announced"),
        (struct.pack("<i", -1) + b"x", "a message of 4294967295 bytes announced"),
        (struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc", "can't decode byte"),
        (struct.pack("<I", 3) + b"{{{", "Expecting property name"),
        (struct.pack("<I", 2) + b"[]", "not a JSON object"),
        (struct.pack("<I", 100_000) + b"[" * 100_000, "sent what is no request"),
        (packed(REQUEST | {"fov_x": math.nan}), "fov_x is not a number from 0.001 to"),
        (packed(REQUEST | {"resolution_x": 100_000}), "resolution_x is not a number from 0 to 4096"),
        (
            packed(REQUEST | {"resolution_x": 4096, "resolution_y": 4096}),
            "4096 x 4096 requested; expected at most 8388608 pixels",
        ),
        (packed(REQUEST | {"resolution_x": 2.5}), "resolution_x is not a whole number"),
        (packed(REQUEST | {"view_matrix": EYE[:-1]}), "view_matrix is not a list of 16 numbers"),
        (packed(REQUEST | {"view_matrix": [0.0] * 16}), "view_matrix has no inverse"),
        (packed(REQUEST | {"train": "yes"}), "train is not true or false"),
        (packed({}), "resolution_x is not a number"),
    ],
)
def test_garbage_drops_the_viewer_and_the_next_one_is_served(gui, viewer, caplog, sent, told):
    poll_until(gui, lambda _: gui.connected)
    viewer.sendall(sent)
    poll_until(gui, lambda _: not gui.connected)
    assert told in caplog.text and dropped(viewer)
    with socket.create_connection(("127.0.0.1", gui.port), timeout=PATIENCE_S) as other:
        other.sendall(packed(REQUEST))
        poll_until(gui, lambda r: r is not None)


def test_the_time_limit_is_two_seconds_unless_told_otherwise():
    assert NetworkGui().timeout_s == 2


def test_a_viewer_that_stops_in_the_middle_is_dropped(gui, viewer, clock, caplog):
    viewer.sendall(packed(REQUEST)[:50])
    poll_until(gui, lambda _: gui.connected)
    poll_until(gui, lambda _: clock.sleep(0.1) or not gui.connected)
    assert "took longer than 0.2 s for one message" in caplog.text


def test_a_viewer_that_sends_byte_by_byte_is_dropped_too(gui, viewer, clock, caplog):
    message = packed(REQUEST)

    def drip(_):
        if gui.connected:
            position = next(places)
            viewer.sendall(message[position : position + 1])
            clock.sleep(0.02)
        return not gui.connected

    places = iter(range(len(message) - 1))
    poll_until(gui, lambda _: gui.connected)
    poll_until(gui, drip)
    assert "took longer than 0.2 s for one message" in caplog.text


def test_a_viewer_that_vanishes_is_noticed_before_and_at_the_reply(gui):
    for reset in (False, True):
        viewer = socket.create_connection(("127.0.0.1", gui.port), timeout=PATIENCE_S)
        viewer.sendall(packed(REQUEST))
        poll_until(gui, lambda r: r is not None)
        if reset:
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        viewer.close()
        if reset:
            time.sleep(0.02)
            gui.reply(torch.zeros(3, 4, 6), "x")
        poll_until(gui, lambda _: not gui.connected)


def test_a_viewer_that_does_not_read_costs_no_more_than_the_time_limit(gui):
    with socket.socket() as viewer:
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.connect(("127.0.0.1", gui.port))
        viewer.sendall(packed(REQUEST | {"resolution_x": 4096, "resolution_y": 1024}))
        poll_until(gui, lambda r: r is not None)
        answered = []
        reply = threading.Thread(target=lambda: answered.append(gui.reply(torch.zeros(3, 1024, 4096), "x")), daemon=True)
        reply.start()
        reply.join(PATIENCE_S)
        assert answered == [False]


def test_one_viewer_at_a_time_but_a_silent_one_gives_way(gui, viewer, clock):
    viewer.sendall(packed(REQUEST))
    poll_until(gui, lambda r: r is not None)
    with socket.create_connection(("127.0.0.1", gui.port), timeout=PATIENCE_S) as second:
        gui.poll()
        assert dropped(second)  # refused: the first was heard of just now
    clock.sleep(0.3)
    with socket.create_connection(("127.0.0.1", gui.port), timeout=PATIENCE_S) as third:
        third.sendall(packed(REQUEST))
        poll_until(gui, lambda r: r is not None)
        assert dropped(viewer)


def test_what_was_asked_is_rendered(gui, viewer, monkeypatch):
    asked = []

    def render(camera, gaussians, pipe, background, scaling_modifier):
        asked.append((camera.image_width, gaussians, pipe.convert_SHs_python, background.tolist(), scaling_modifier))
        return {"render": torch.ones(3, 4, 6)}

    monkeypatch.setattr(gaussian_renderer, "render", render)
    assert not answer(gui, "the gaussians", PipelineParams(), torch.zeros(3), "v")
    viewer.sendall(packed(REQUEST | {"shs_python": True, "scaling_modifier": 0.5}))
    until(lambda: answer(gui, "the gaussians", PipelineParams(), torch.zeros(3), "v"))
    assert asked == [(6, "the gaussians", True, [0.0, 0.0, 0.0], 0.5)]
    assert read_exactly(viewer, 72) == b"\xff" * 72


@pytest.mark.parametrize("error", [RuntimeError("more than 2^31 pairs"), MemoryError("no room"), ValueError("odd")])
def test_a_view_that_cannot_be_rendered_costs_the_viewer_not_the_training(gui, viewer, monkeypatch, caplog, error):
    def render(*_):
        raise error

    monkeypatch.setattr(gaussian_renderer, "render", render)
    viewer.sendall(packed(REQUEST))
    until(lambda: answer(gui, None, PipelineParams(), torch.zeros(3), "v"))
    assert f"requested a view that cannot be rendered ({error})" in caplog.text and dropped(viewer)


def test_any_bytes_on_the_wire_leave_the_server_alive(gui):
    for seed in range(20):
        with socket.create_connection(("127.0.0.1", gui.port), timeout=PATIENCE_S) as viewer:
            poll_until(gui, lambda _: gui.connected)
            viewer.sendall(struct.pack("<I", seed) + random.Random(seed).randbytes(64))
            poll_until(gui, lambda _: not gui.connected)
    assert rgb_bytes(torch.full((3, 1, 1), 2.0)) == b"\xff\xff\xff"
