# SPDX-License-Identifier: Apache-2.0
"""A client of the viewer's page without a browser: speaks viser's websocket, keeps what is on the page, presses buttons."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec.msgpack
import viser
import zstandard
from websockets.sync.client import connect

from tests.patience import PATIENCE_S

CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": (1.0, 0.0, 0.0, 0.0), "position": (0.0, 3.5, 0.0), "fov": 0.5, "near": 0.01, "far": 100.0,
    "image_height": 90, "image_width": 160, "look_at": (0.0, 0.0, 0.0), "up_direction": (0.0, 0.0, 1.0),
}  # fmt: skip


class Looker:
    """Remembers every message, the components of the panel by uuid, the Gaussians' buffer, and how often it was sent."""

    def __init__(self, url: str) -> None:
        self._socket = connect(url.replace("http", "ws"), subprotocols=[f"viser-v{viser.__version__}"], max_size=None, open_timeout=PATIENCE_S)  # type: ignore[list-item]
        self.messages: list[dict[str, Any]] = []
        self.panel: dict[str, dict[str, Any]] = {}
        self.buffer, self.buffers_sent = b"", 0
        self.pictures: list[bytes] = []
        self.say(**CAMERA)

    def __enter__(self) -> Looker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def say(self, **message: Any) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def press(self, label: str) -> None:
        self.set(label, True)

    def set(self, label: str, value: Any) -> None:
        uuid = next(uuid for uuid, props in self.panel.items() if props.get("label") == label)
        self.say(type="GuiUpdateMessage", uuid=uuid, updates={"value": value})

    def text(self) -> str:
        """Of all markdown on the page."""
        return "\n".join(str(props["_markdown"]) for props in self.panel.values() if props.get("_markdown"))

    def until(self, done: Callable[[], Any]) -> None:
        """Reads until done(); fails after PATIENCE_S."""
        end = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < end, "the page never showed that"
            self.read(0.05)

    def read(self, wait_s: float = 0.5) -> None:
        """What comes within wait_s."""
        try:
            data = self._socket.recv(timeout=wait_s)
        except TimeoutError:
            return
        assert isinstance(data, bytes)
        size = int.from_bytes(data[8:16], "little")
        inner = msgspec.msgpack.decode(zstandard.decompress(data[16 : 16 + size]))
        position, parts = -(-(16 + size) // 8) * 8, []
        for length in inner["binaryBufferLengths"]:
            parts.append(data[position : position + length])
            position += -(-length // 8) * 8
        for message in inner["messages"]:
            self._take(message, parts)

    def _take(self, message: dict[str, Any], parts: list[bytes]) -> None:
        self.messages.append(message)
        if message["type"].startswith("Gui") and "props" in message:
            self.panel[message["uuid"]] = dict(message["props"])
        elif message["type"] == "GuiUpdateMessage":
            self.panel.setdefault(message["uuid"], {}).update(message["updates"])
        for shown in (message.get("props"), message.get("updates")):
            data = shown.get("_data") if isinstance(shown, dict) else None
            if data is not None:
                self.pictures.append(parts[data["__binary_index"]] if isinstance(data, dict) else data)
        props = message.get("props") if message["type"] == "GaussianSplatsMessage" else message.get("updates")
        if isinstance(props, dict) and "buffer" in props:
            self.buffer = parts[props["buffer"]["__binary_index"]]
            self.buffers_sent += 1
