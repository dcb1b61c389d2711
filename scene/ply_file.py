# SPDX-License-Identifier: Apache-2.0
"""A PLY file's bytes: as they are, or compressed without loss as `NAME.ply.xz`, which `xz -d` opens."""

import io
import lzma
import shutil
from pathlib import Path
from typing import BinaryIO

from utils.file_formats import XZ
from utils.general_utils import atomic_path

COLUMNS_OF_FLOATS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 2, "pb": 2}]
"""Contexts by the place of a byte among four: a cloud takes 0.71 of its size, where xz's own settings take 0.76."""
MOST_TIMES, SPARE_BYTES = 100, 1 << 20
"""No cloud is compressed more: of a row of 248 bytes at least the 12 of a position differ from all others."""
MOST_MEMORY_BYTES = 1 << 28
"""For decompression, of which a file may ask for 4 GB; `xz -9` asks for 65 MB."""


class PlyError(ValueError):
    """A PLY file that cannot be used; the message is one sentence for the user."""


def open_bytes(path: Path) -> BinaryIO:
    """What a PLY file holds, decompressed where its name ends in .xz. Raises PlyError where there is none."""
    if not path.is_file():
        raise PlyError(f"{path} is not a file; expected a PLY point cloud, check the path")
    return io.BytesIO(_decompressed(path)) if path.suffix.lower() == XZ else path.open("rb")


def compress(path: Path) -> Path:
    """Puts NAME.ply.xz in the place of NAME.ply: after a stop at any moment one of them is there, and whole."""
    packed = path.with_name(path.name + XZ)
    with (
        atomic_path(packed) as temporary,
        path.open("rb") as plain,
        lzma.open(temporary, "wb", format=lzma.FORMAT_XZ, filters=COLUMNS_OF_FLOATS) as file,
    ):
        shutil.copyfileobj(plain, file)
    path.unlink()
    return packed


def _decompressed(path: Path) -> bytes:
    """Raises PlyError, one sentence, for a file that is no whole .xz file, or holds far more than a cloud."""
    with path.open("rb") as file:
        packed = file.read(path.stat().st_size)
    most = MOST_TIMES * len(packed) + SPARE_BYTES
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_MEMORY_BYTES)
    remedy = "copy it again, or make its run again"
    try:
        content = decompressor.decompress(packed, most + 1)
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise PlyError(f"{path} cannot be decompressed by xz ({error}): damaged; {remedy}") from error
    if len(content) > most:
        raise PlyError(f"{path} holds more than {MOST_TIMES} times its size; expected a point cloud, {remedy}")
    if not decompressor.eof or decompressor.unused_data:
        what = "has more bytes after its end" if decompressor.eof else "is truncated: it ends before its data do"
        raise PlyError(f"{path} {what}; {remedy}")
    return content
