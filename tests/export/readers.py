# SPDX-License-Identifier: Apache-2.0
"""Readers of the splat formats, written from their public descriptions and sharing nothing with the writers.

.splat: 32-byte records (antimatter15's viewer). SPZ versions 2 and 3: Niantic's README. SOG version 2 and compressed PLY:
PlayCanvas's specification. glTF: the text of KHR_gaussian_splatting.
Each returns arrays of N Gaussians: xyz [N, 3], log_scale [N, 3], wxyz [N, 4], dc [N, 3] (SH coefficient), opacity [N], rest [N, K - 1, 3].
"""

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData

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
    antialiased: bool = False

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
    assert (raw[:4], flags & ~1, reserved) == (b"NGSP", 0, 0) and version in (2, 3), magic
    left = io.BytesIO(raw[16:])

    def take(kind: str, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(left.read(count * np.dtype(kind).itemsize), kind, count).reshape(shape)

    triples = take("u1", n, 3, 3).astype(np.int64) @ [1, 1 << 8, 1 << 16]
    xyz = np.where(triples >= 1 << 23, triples - (1 << 24), triples) / 2**fractional_bits
    opacity = take("u1", n) / 255
    dc = (take("u1", n, 3) / 255 - 0.5) / 0.15
    log_scale = take("u1", n, 3) / 16 - 10
    xyzw = _smallest_three(take("<u4", n)) if version == 3 else _first_three(take("u1", n, 3))
    rest = (take("u1", n, (degree + 1) ** 2 - 1, 3).astype(float) - 128) / 128
    assert not left.read()
    return Splats(xyz, log_scale, np.roll(xyzw, 1, axis=1), dc, opacity, rest, bool(flags & 1))


def _first_three(packed: np.ndarray) -> np.ndarray:
    """x, y and z as bytes from -1 to 1; w is not negative."""
    xyz = packed / 127.5 - 1
    return np.concatenate([xyz, np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1, keepdims=True)))], axis=1)


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
    antialiased = meta.get("antialias", False)
    assert meta.get("model", "default") == ("antialiased" if antialiased else "default")
    return Splats(xyz, log_scale, _sog_quaternions(pixels("quats")), dc, sh0[:, 3] / 255, rest, antialiased)


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


def read_compressed_ply(path: Path) -> Splats:
    """Groups of 256 splats, of which each has a row of ranges; words of 11, 10 and 11 bits, highest first."""
    file = PlyData.read(str(path))
    chunk, vertex = file["chunk"].data, file["vertex"].data
    group = np.arange(len(vertex)) // 256

    def between(share: np.ndarray, prefix: str, axes: str) -> np.ndarray:
        low, high = (
            np.stack([chunk[f"{end}_{prefix}{axis}"] for axis in axes], axis=1)[group] for end in ("min", "max")
        )
        return low + share * (high.astype(float) - low)

    def three(word: np.ndarray) -> np.ndarray:
        return np.stack([(word >> 21) / 2047, (word >> 11 & 1023) / 1023, (word & 2047) / 2047], axis=1)

    rgba = np.stack([vertex["packed_color"] >> shift & 255 for shift in (24, 16, 8, 0)], axis=1) / 255
    word = vertex["packed_rotation"].astype(np.int64)
    others = (np.stack([word >> 20 & 1023, word >> 10 & 1023, word & 1023], axis=1) / 1023 - 0.5) * np.sqrt(2)
    wxyz = np.zeros((len(word), 4))
    for row, largest, three_others in zip(wxyz, word >> 30, others):
        row[[k for k in range(4) if k != largest]] = three_others
        row[largest] = np.sqrt(max(0, 1 - (row**2).sum()))
    rest = np.zeros((len(vertex), 0, 3))
    if "sh" in file:
        stored = np.stack([file["sh"].data[field] for field in file["sh"].data.dtype.names], axis=1).astype(float)
        rest = (((stored + 0.5) / 256 - 0.5) * 8).reshape(len(vertex), 3, -1).transpose(0, 2, 1)
    return Splats(
        between(three(vertex["packed_position"]), "", "xyz"),
        between(three(vertex["packed_scale"]), "scale_", "xyz"),
        wxyz,
        (between(rgba[:, :3], "", "rgb") - 0.5) / SH_C0,
        rgba[:, 3],
        rest,
        "SplatRenderMode: mip" in file.comments,
    )


def read_gltf_splats(path: Path) -> Splats:
    """The one primitive of a GLB file, whose required attributes, types and properties are checked."""
    content = path.read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON") and size % 4 == 0
    tree, binary = json.loads(content[20 : 20 + size]), content[28 + size :]
    assert content[24 + size : 28 + size] == b"BIN\0" and tree["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert 0 <= len(binary) - tree["buffers"][0]["byteLength"] < 4 and len(content) % 4 == 0
    (primitive,) = tree["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    facts = primitive["extensions"]["KHR_gaussian_splatting"]
    assert (facts["kernel"], facts["colorSpace"]) == ("ellipse", "srgb_rec709_display")

    def take(name: str) -> np.ndarray:
        accessor = tree["accessors"][primitive["attributes"][name]]
        view = tree["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0 and accessor["componentType"] == 5126
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        values = np.frombuffer(binary, "<f4", accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
        if name == "POSITION":
            assert np.array_equal([accessor["min"], accessor["max"]], [values.min(axis=0), values.max(axis=0)])
        return values

    prefix = "KHR_gaussian_splatting:"
    names = [name for name in primitive["attributes"] if "SH_DEGREE" in name]
    degree = round(len(names) ** 0.5) - 1
    assert names == [f"{prefix}SH_DEGREE_{k}_COEF_{m}" for k in range(degree + 1) for m in range(2 * k + 1)]
    features = np.stack([take(name) for name in names], axis=1)
    opacity, scale = take(f"{prefix}OPACITY")[:, 0], take(f"{prefix}SCALE")
    assert (scale >= 0).all() and (opacity >= 0).all() and (opacity <= 1).all()
    wxyz = np.roll(take(f"{prefix}ROTATION"), 1, axis=1)
    assert np.allclose(np.linalg.norm(wxyz, axis=1), 1, atol=1e-5)
    return Splats(take("POSITION"), np.log(scale), wxyz, features[:, 0], opacity, features[:, 1:])


READERS: dict[str, Callable[[Path], Splats]] = {
    "compressed.ply": read_compressed_ply,
    "splat": read_splat,
    "spz": read_spz,
    "sog": read_sog,
    "gsglb": read_gltf_splats,
}
"""Format -> its reader."""
