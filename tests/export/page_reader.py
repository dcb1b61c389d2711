# SPDX-License-Identifier: Apache-2.0
"""The offline page as a browser takes it apart, and the Gaussians in it; shares nothing with the writer."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from tests.export.readers import SH_C0, Splats

RECORD = np.dtype([("mean", "<f4", 3), ("rgb", "<f2", 3), ("opacity", "<f2"), ("scale", "<f2", 3), ("turn", "<i2", 3)])


class Page(HTMLParser):
    """Text of each element by its id or tag, and every tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts, self.tags, self._open = dict[str, str](), list[tuple[str, dict]](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "input"):
            self._open.append(dict(attributes).get("id", tag))

    def handle_endtag(self, tag) -> None:
        self._open.pop()

    def handle_data(self, data) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    @property
    def scene(self) -> dict:
        return json.loads(re.search(r"const SCENE = (\{.*?\});", self.texts["script"])[1])


def read_page(path: Path) -> Splats:
    page = Page(path)
    scene, n = page.scene, page.scene["count"]
    records = np.frombuffer(base64.b64decode(page.texts["cloud"]), RECORD)
    assert len(records) == n
    p = records["turn"].astype(float) / 32767
    square = (p**2).sum(axis=1, keepdims=True)
    wxyz = np.concatenate([(1 - square) / (1 + square), 2 * p / (1 + square)], axis=1)
    dc = (records["rgb"].astype(float) - 0.5) / SH_C0
    count = (scene["degree"] + 1) ** 2 - 1
    rest = np.zeros((n, 0, 3))
    if count:
        stored = np.frombuffer(base64.b64decode(page.texts["harmonics"]), "u1").reshape(n, -1)[:, : 3 * count]
        rest = ((stored.astype(float) - 128) / 127 * scene["rest_range"]).reshape(n, count, 3)
    with np.errstate(divide="ignore"):
        log_scale = np.log(records["scale"].astype(float))
    return Splats(records["mean"], log_scale, wxyz, dc, records["opacity"].astype(float), rest)
