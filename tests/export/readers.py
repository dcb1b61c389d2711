# SPDX-License-Identifier: Apache-2.0
"""Readers of the splat formats, written from their public descriptions and sharing nothing with the writers.

.splat: 32-byte records (antimatter15's viewer). SPZ version 3: Niantic's README. SOG version 2: PlayCanvas's specification.
Each returns arrays of N Gaussians: xyz [N, 3], log_scale [N, 3], wxyz [N, 4], dc [N, 3] (SH coefficient), opacity [N], rest [N, K - 1, 3].
"""

import gzip
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scene.gaussian_model import GaussianModel

SH_C0 = 0.5 / np.sqrt(np.pi)
RECORD = np.dtype([("xyz", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("wxyz", "u1", 4)])


@dataclass
class Splats:
    """What a file holds, in the terms of the training's parameters."""

    xyz: np.ndarray
    log_scale: np.ndarray
    wxyz: np.ndarray
    dc: np.ndarray
    opacity: np.ndarray
    rest: np.ndarray

    def model(self) -> GaussianModel:
        opacity = np.clip(self.opacity, 1e-6, 1 - 1e-6)
        columns = {"xyz": self.xyz, "f_dc": self.dc[:, None], "f_rest": self.rest, "opacity": np.log(opacity / (1 - opacity))[:, None], "scaling": self.log_scale, "rotation": self.wxyz}  # fmt: skip
        return GaussianModel.of_parameters(
            {name: torch.tensor(value, dtype=torch.float32) for name, value in columns.items()}
        )


def _unit(q: np.ndarray) -> np.ndarray:
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def read_splat(path: Path) -> Splats:
    records = np.frombuffer(path.read_bytes(), RECORD)
    rgba = records["rgba"] / 255
    wxyz = _unit((records["wxyz"].astype(float) - 128) / 128)
    dc = (rgba[:, :3] - 0.5) / SH_C0
    return Splats(records["xyz"], np.log(records["scale"]), wxyz, dc, rgba[:, 3], np.zeros((len(records), 0, 3)))


def read_spz(path: Path) -> Splats:
    raw = gzip.decompress(path.read_bytes())
    magic, version, n = np.frombuffer(raw, "<u4", 3)
    degree, fractional_bits, flags, reserved = raw[12:16]
    assert (raw[:4], version, flags, reserved) == (b"NGSP", 3, 0, 0), magic
    left = io.BytesIO(raw[16:])

    def take(kind: str, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(left.read(count * np.dtype(kind).itemsize), kind, count).reshape(shape)

    triples = take("u1", n, 3, 3).astype(np.int64) @ [1, 1 << 8, 1 << 16]
    xyz = np.where(triples >= 1 << 23, triples - (1 << 24), triples) / 2**fractional_bits
    opacity = take("u1", n) / 255
    dc = (take("u1", n, 3) / 255 - 0.5) / 0.15
    log_scale = take("u1", n, 3) / 16 - 10
    xyzw = _smallest_three(take("<u4", n))
    rest = (take("u1", n, (degree + 1) ** 2 - 1, 3).astype(float) - 128) / 128
    assert not left.read()
    return Splats(xyz, log_scale, np.roll(xyzw, 1, axis=1), dc, opacity, rest)


def _smallest_three(packed: np.ndarray) -> np.ndarray:
    """Two bits tell the largest of (x, y, z, w); of the others, sign and nine bits each, the last one lowest."""
    found = np.zeros((len(packed), 4))
    for row, word in zip(found, packed.tolist()):
        largest = word >> 30
        for k in (k for k in (3, 2, 1, 0) if k != largest):
            size = (word & 511) / 511 / np.sqrt(2)
            row[k] = -size if word >> 9 & 1 else size
            word >>= 10
        row[largest] = np.sqrt(max(0, 1 - (row**2).sum()))
    return found


def read_sog(path: Path) -> Splats:
    archive = zipfile.ZipFile(path)
    meta = json.loads(archive.read("meta.json"))
    n = meta["count"]
    assert meta["version"] == 2

    def image(part: str, k: int = 0) -> np.ndarray:
        file = archive.read(meta[part]["files"][k])
        assert file[:4] == b"RIFF" and file[12:16] == b"VP8L", "not lossless"
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGBA")).astype(int)

    def pixels(part: str, k: int = 0) -> np.ndarray:
        return image(part, k).reshape(-1, 4)[:n]

    share = (pixels("means", 0)[:, :3] + 256 * pixels("means", 1)[:, :3]) / 65535
    low, high = np.array(meta["means"]["mins"]), np.array(meta["means"]["maxs"])
    logs = low + share * (high - low)
    xyz = np.sign(logs) * np.expm1(np.abs(logs))
    log_scale = np.array(meta["scales"]["codebook"])[pixels("scales")[:, :3]]
    sh0 = pixels("sh0")
    dc = np.array(meta["sh0"]["codebook"])[sh0[:, :3]]
    rest = _sog_rest(meta["shN"], image("shN"), pixels("shN", 1)) if "shN" in meta else np.zeros((n, 0, 3))
    return Splats(xyz, log_scale, _sog_quaternions(pixels("quats")), dc, sh0[:, 3] / 255, rest)


def _sog_quaternions(q: np.ndarray) -> np.ndarray:
    """Alpha - 252 tells the largest of (w, x, y, z); RGB are the others in order, in units of sqrt(2) around 1/2."""
    found = np.zeros((len(q), 4))
    for row, (r, g, b, mode) in zip(found, q):
        others = [k for k in range(4) if k != mode - 252]
        row[others] = (np.array([r, g, b]) / 255 - 0.5) * np.sqrt(2)
        row[mode - 252] = np.sqrt(max(0, 1 - (row**2).sum()))
    return found


def _sog_rest(meta: dict, centroids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """64 palette entries a row, K - 1 pixels each; a channel of a pixel is an index into the codebook."""
    entry = labels[:, 0] + 256 * labels[:, 1]
    k = (meta["bands"] + 1) ** 2 - 1
    columns = (entry % 64)[:, None] * k + np.arange(k)
    return np.array(meta["codebook"])[centroids[(entry // 64)[:, None], columns, :3]]
