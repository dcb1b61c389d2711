# SPDX-License-Identifier: Apache-2.0
"""Gaussians as PLY, and through gaussforge as splat, spz and sog.

Of gaussforge 0.6.0 it was found, and is taken care of here, that it converts no axes, and that its sog takes
quaternions for unit ones, which training's are not.
"""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from export.cloud import UP, check_padding, padded, rotated
from export.limits import check, fitted, report_rounding
from export.options import Options, library
from scene.gaussian_model import GaussianModel
from scene.ply import ply_content, write_vertices
from utils.general_utils import atomic_path

CONVERTER = "gaussforge"
COUNTS: dict[str, Callable[[bytes], float]] = {
    "splat": lambda content: len(content) / 32,
    "spz": lambda content: int.from_bytes(gzip.decompress(content)[8:12], "little"),
    "sog": lambda content: json.loads(ZipFile(io.BytesIO(content)).read("meta.json"))["count"],
}
"""Format -> how many Gaussians a file holds by its own account."""


def check_ply(gaussians: GaussianModel, options: Options) -> None:
    """Raises ValueError for what no file holds, and for a degree of which this cloud has more."""
    check(gaussians, "ply")
    if options.pad_sh is not None:
        check_padding(gaussians, options.pad_sh)


def check_converted(format: str, gaussians: GaussianModel, options: Options) -> None:
    """Raises ValueError for what the format does not hold, and where the library that writes it is not installed."""
    library(CONVERTER)
    check(gaussians, format)


def write_ply(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Upstream's fields and activations."""
    gaussians = _placed(gaussians, "ply", options)
    if options.pad_sh is not None:
        gaussians = padded(gaussians, options.pad_sh)
    write_vertices(out, gaussians.as_vertices(), gaussians.comments())


def write_splat(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """32 bytes a Gaussian: position and scale as floats, colour, opacity and quaternion as bytes."""
    _convert(_placed(gaussians, "splat", options), "splat", out)


def write_spz(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Niantic's, version 2 or 3."""
    _convert(_placed(gaussians, "spz", options), "spz", out, options.spz_version)


def write_sog(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """PlayCanvas's, version 2, in one file."""
    _convert(_placed(gaussians, "sog", options), "sog", out)


def _spz_positions(xyz: np.ndarray) -> np.ndarray:
    """As stored: [N, 3] in fixed point."""
    return np.round(xyz.astype(np.float64) * 4096) / 4096


def _sog_positions(xyz: np.ndarray) -> np.ndarray:
    """As stored: [N, 3], of which logarithms have 65,535 steps from the least to the largest of an axis."""
    logs = np.sign(xyz) * np.log1p(np.abs(xyz.astype(np.float64)))
    low, extent = logs.min(axis=0), np.maximum(np.ptp(logs, axis=0), 1e-9)
    logs = low + np.round((logs - low) / extent * 65535) / 65535 * extent
    return np.sign(logs) * np.expm1(np.abs(logs))


STORED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"spz": _spz_positions, "sog": _sog_positions}
"""Format -> positions [N, 3] -> those that a reader computes from the file, where they differ."""


def _placed(gaussians: GaussianModel, format: str, options: Options) -> GaussianModel:
    """Rotated, and within what the format holds."""
    check(gaussians, format)
    placed = fitted(rotated(gaussians, UP[options.up]), format)
    if format in STORED:
        report_rounding(placed, STORED[format](placed.get_xyz.detach().cpu().numpy()), format)
    return placed


def _convert(gaussians: GaussianModel, format: str, out: Path, spz_version: int = 3) -> None:
    """Raises ValueError, one sentence, where gaussforge is missing, refuses, fails, or writes something else."""
    forge = library(CONVERTER).GaussForge()
    given = ply_content(gaussians.as_vertices())
    try:
        answer = forge.convert(given, "ply", format, spz_version=spz_version)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        count = COUNTS[format](answer["data"])
    except Exception as error:  # a compiled library's, of any class
        raise ValueError(f"gaussforge could not write {out}: {' '.join(str(error).split())[:300]}") from error
    if count != len(gaussians.get_xyz):
        raise ValueError(
            f"gaussforge wrote {count:g} Gaussians into {out}, and the scene has {len(gaussians.get_xyz)}."
        )
    content = MARKS[format](answer["data"]) if gaussians.antialiased and format in MARKS else answer["data"]
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)


def _marked_spz(content: bytes) -> bytes:
    """The lowest bit of the flags, byte 14 of the header, says antialiased."""
    raw = bytearray(gzip.decompress(content))
    raw[14] |= 1
    return gzip.compress(bytes(raw), mtime=0)


def _marked_sog(content: bytes) -> bytes:
    """`antialias` of PlayCanvas's specification, and `model`, by which splat-transform has replaced it."""
    marked = io.BytesIO()
    with ZipFile(io.BytesIO(content)) as given, ZipFile(marked, "w") as written:
        for entry in given.infolist():
            data = given.read(entry)
            if entry.filename == "meta.json":
                data = json.dumps({**json.loads(data), "antialias": True, "model": "antialiased"}).encode()
            written.writestr(entry, data)
    return marked.getvalue()


MARKS: dict[str, Callable[[bytes], bytes]] = {"spz": _marked_spz, "sog": _marked_sog}
"""Format -> the content, marked as Gaussians that are to be rendered antialiased, which gaussforge cannot do."""
