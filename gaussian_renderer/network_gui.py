# SPDX-License-Identifier: Apache-2.0
"""The socket that the SIBR remote viewer of 3DGS connects to, only when asked for.

Protocol (little endian): the viewer sends the length of a message in 4 bytes, then that much JSON: image size,
fields of view, depth limits, two 4x4 matrices, switches. The program answers with height x width x 3 bytes of RGB
(nothing when the viewer requested no image), then the length of a text in 4 bytes, then that text (upstream: the
source path).

A viewer is untrusted: message size, waiting time and values are limited, and whatever it sends or stops sending, the
training continues: the connection is dropped and the next one is waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import socket
import struct
import time
import typing
from dataclasses import dataclass
from typing import Any

import torch

import gaussian_renderer
from utils.addresses import tcp_socket

if typing.TYPE_CHECKING:
    from arguments import PipelineParams
    from scene.cameras import RCamera
    from scene.gaussian_model import GaussianModel

LOG = logging.getLogger(__name__)
MAX_MESSAGE_BYTES = 1 << 20
MAX_SIDE_PX, MAX_PIXELS = 4096, 1 << 23  # a 4K screen has 3840 x 2160
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class MiniCam:
    """What render() needs of a camera. Matrices are transposed (row vectors), as in scene.cameras.RCamera."""

    image_width: int  # px
    image_height: int  # px
    FoVx: float  # radians
    FoVy: float  # radians
    znear: float
    zfar: float
    world_view_transform: torch.Tensor  # [4, 4]
    full_proj_transform: torch.Tensor  # [4, 4]
    camera_center: torch.Tensor  # [3]


@dataclass(frozen=True)
class ViewRequest:
    """One message of the viewer. `camera` is None when it requests no image.

    train: training may continue; keep_alive: continue answering after the last iteration; shs_python, rot_scale_python:
    upstream's convert_SHs_python and compute_cov3D_python for this view.
    """

    camera: MiniCam | None
    train: bool
    keep_alive: bool
    shs_python: bool
    rot_scale_python: bool
    scaling_modifier: float


class NetworkGui:
    """Remembers the listening socket, the one connected viewer, and the bytes it has sent so far.

    Nothing is bound before `listen()`. `poll()` never blocks; `reply()` blocks for `timeout_s` at most.
    """

    def __init__(self, ip: str = "127.0.0.1", port: int = 6009, timeout_s: float = 2.0) -> None:
        self.ip, self.port, self.timeout_s = ip, port, timeout_s
        self._listener: socket.socket | None = None
        self._viewer: socket.socket | None = None
        self._received = bytearray()
        self._last_heard_s = 0.0
        self._message_began_s = 0.0
        self._pending: ViewRequest | None = None

    def listen(self) -> int:
        """Binds and listens; returns the port: where the one asked for is in use, or 0, a free one.

        Raises ValueError when that cannot be done.
        """
        listener, is_loopback = tcp_socket(self.ip)
        try:
            self._bind(listener)
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise ValueError(
                f"viewer port {self.port} on {self.ip} is not available ({error.strerror}): choose another with "
                "--port, or --port 0 for any free one"
            ) from None
        listener.setblocking(False)
        self._listener, self.port = listener, listener.getsockname()[1]
        if not is_loopback:
            LOG.warning("the viewer's socket is open to every machine that reaches %s:%d", self.ip, self.port)
        return self.port

    def _bind(self, listener: socket.socket) -> None:
        try:
            listener.bind((self.ip, self.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            listener.bind((self.ip, 0))
            instead = listener.getsockname()[1]
            LOG.warning("viewer port %d on %s is in use: listening on port %d instead", self.port, self.ip, instead)

    def close(self) -> None:
        """Drops the viewer and stops listening. May be called twice."""
        self.drop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def __enter__(self) -> NetworkGui:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a viewer is connected, as far as is known."""
        return self._viewer is not None

    def wants_to_hold(self, finished: bool) -> bool:
        """Whether a viewer active within timeout_s requests that training waits or the finished program stays."""
        if self._viewer is None or self._pending is None or time.monotonic() - self._last_heard_s > self.timeout_s:
            return False
        return self._pending.keep_alive if finished else not self._pending.train

    def poll(self, device: torch.device | str = "cpu") -> ViewRequest | None:
        """The next complete request, its matrices on `device`; None while there is none. No viewer makes it raise."""
        self._receive()
        if self._accept():
            self._receive()
        if self._viewer is None:
            return None
        try:
            message = self._next_message()
            request = None if message is None else parse_request(message, device)
        except ValueError as error:
            self.drop(f"sent what is no request ({error})")
            return None
        if request is not None:
            self._pending = request
        elif self._received and time.monotonic() - self._message_began_s > self.timeout_s:
            self.drop(f"took longer than {self.timeout_s:g} s for one message")
        return request

    def reply(self, image: torch.Tensor | None, verify: str) -> bool:
        """Answers the last request with image [3, H, W] in [0, 1] (None: no image) and the text.

        Returns False when the viewer is gone. Raises ValueError when the image does not have the size asked for, which
        the viewer could not notice.
        """
        pixels = b"" if image is None else rgb_bytes(image)
        camera = self._pending.camera if self._pending is not None else None
        expected = 0 if camera is None else 3 * camera.image_width * camera.image_height
        if image is not None and len(pixels) != expected:
            raise ValueError(f"image of shape {tuple(image.shape)} given: expected {expected} values, as requested")
        if self._viewer is None:
            return False
        text = verify.encode("utf-8")
        try:
            self._viewer.settimeout(self.timeout_s)
            self._viewer.sendall(pixels + LENGTH.pack(len(text)) + text)
            self._viewer.setblocking(False)
        except OSError as error:
            self.drop(f"did not take the answer ({error})")
        self._last_heard_s = time.monotonic()
        return self.connected

    def _accept(self) -> bool:
        """Takes a waiting viewer; one that has been silent for timeout_s gives way to it. True: there is a new one."""
        if self._listener is None:
            return False
        try:
            newcomer, _ = self._listener.accept()
        except OSError:
            return False
        if self._viewer is not None and time.monotonic() - self._last_heard_s < self.timeout_s:
            newcomer.close()
            return False
        self.drop("gave way to another")
        newcomer.setblocking(False)
        self._viewer, self._last_heard_s = newcomer, time.monotonic()
        return True

    def _receive(self) -> None:
        """Takes what has arrived, at most one message beyond what is kept; drops a viewer that is gone or too slow."""
        if self._viewer is None:
            return
        if not self._received:
            self._message_began_s = time.monotonic()
        room = MAX_MESSAGE_BYTES + LENGTH.size - len(self._received)
        try:
            arrived = self._viewer.recv(room) if room else None
            if arrived == b"":
                self.drop()
                return
            self._received += arrived or b""
            self._last_heard_s = time.monotonic()
        except BlockingIOError:
            return
        except OSError as error:
            self.drop(f"cannot be read ({error})")

    def _next_message(self) -> bytes | None:
        """Removes and returns the next complete message; ValueError when its length is impossible."""
        if len(self._received) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._received)
        if not 0 < length <= MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {length} bytes announced, 1 to {MAX_MESSAGE_BYTES} are allowed")
        end = LENGTH.size + length
        if len(self._received) < end:
            return None
        message = bytes(self._received[LENGTH.size : end])
        del self._received[:end]
        self._message_began_s = time.monotonic()
        return message

    def drop(self, reason: str = "") -> None:
        """Closes the connection of the viewer, if there is one; a reason is logged."""
        if self._viewer is not None:
            if reason:
                LOG.warning("remote viewer dropped: it %s", reason)
            with contextlib.suppress(OSError):
                self._viewer.close()
        self._viewer, self._pending = None, None
        self._received.clear()


def answer(
    gui: NetworkGui, gaussians: GaussianModel, pipe: PipelineParams, background: torch.Tensor, verify: str
) -> bool:
    """Answers the viewer's pending request; whether there was one. background [3]; verify: the text sent."""
    request = gui.poll(background.device)
    if request is None:
        return False
    try:
        image = _image(request, gaussians, pipe, background)
    except (RuntimeError, ValueError, MemoryError) as error:  # more than the rasterizer or the memory can take
        gui.drop(f"requested a view that cannot be rendered ({error})")
    else:
        gui.reply(image, verify)
    return True


@torch.no_grad()
def _image(
    request: ViewRequest, gaussians: GaussianModel, pipe: PipelineParams, background: torch.Tensor
) -> torch.Tensor | None:
    if request.camera is None:
        return None
    pipe = dataclasses.replace(
        pipe, convert_SHs_python=request.shs_python, compute_cov3D_python=request.rot_scale_python
    )
    # render() reads of a camera what MiniCam has
    camera = typing.cast("RCamera", request.camera)
    return gaussian_renderer.render(camera, gaussians, pipe, background, request.scaling_modifier)["render"]


def rgb_bytes(image: torch.Tensor) -> bytes:
    """[3, H, W] in [0, 1] -> H * W * 3 bytes, row by row."""
    pixels = (image.detach().clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    return pixels.contiguous().cpu().numpy().tobytes()


def parse_request(message: bytes, device: torch.device | str = "cpu") -> ViewRequest:
    """A ViewRequest from the viewer's JSON. ValueError for anything that is not one."""
    try:
        fields = json.loads(message.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    width, height = _whole(fields, "resolution_x"), _whole(fields, "resolution_y")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} requested; expected at most {MAX_PIXELS} pixels")
    camera = _camera(fields, width, height, device) if width and height else None
    switches = {name: _switch(fields, name) for name in ("train", "keep_alive", "shs_python", "rot_scale_python")}
    return ViewRequest(camera, scaling_modifier=_number(fields, "scaling_modifier", 0.0, 100.0), **switches)


def _camera(fields: dict[str, Any], width: int, height: int, device: torch.device | str) -> MiniCam:
    """The viewer's y and z axes point the other way than 3DGS's: their columns change sign."""
    view, full = _matrix(fields, "view_matrix"), _matrix(fields, "view_projection_matrix")
    view[:, 1:3] *= -1
    full[:, 1] *= -1
    try:
        centre = torch.linalg.inv(view)[3, :3].float()
    except RuntimeError:
        raise ValueError("view_matrix has no inverse") from None
    if not centre.isfinite().all():
        raise ValueError("view_matrix has no inverse in float32")
    return MiniCam(
        image_width=width,
        image_height=height,
        FoVx=_number(fields, "fov_x", 1e-3, math.pi - 1e-3),
        FoVy=_number(fields, "fov_y", 1e-3, math.pi - 1e-3),
        znear=_number(fields, "z_near", 0.0, 1e9),
        zfar=_number(fields, "z_far", 0.0, 1e9),
        world_view_transform=view.float().to(device),
        full_proj_transform=full.float().to(device),
        camera_center=centre.to(device),
    )


def _number(fields: dict[str, Any], name: str, lo: float, hi: float) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lo <= value <= hi:
        raise ValueError(f"{name} is not a number from {lo:g} to {hi:g}")
    return float(value)


def _whole(fields: dict[str, Any], name: str) -> int:
    value = _number(fields, name, 0, MAX_SIDE_PX)
    if not value.is_integer():
        raise ValueError(f"{name} is not a whole number")
    return int(value)


def _switch(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, (bool, int)):
        raise ValueError(f"{name} is not true or false")
    return bool(value)


def _matrix(fields: dict[str, Any], name: str) -> torch.Tensor:
    """Sixteen finite numbers -> [4, 4] float64."""
    values = fields.get(name)
    if not isinstance(values, list) or len(values) != 16:
        raise ValueError(f"{name} is not a list of 16 numbers")
    return torch.tensor([_number({name: v}, name, -1e9, 1e9) for v in values], dtype=torch.float64).reshape(4, 4)
