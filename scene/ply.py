# SPDX-License-Identifier: Apache-2.0
"""Reading and writing vertex clouds as PLY. The only module that imports plyfile (GPL-3.0-or-later).

What can be wrong with a file is found before its data are read: the header is parsed here with a size limit, so that a
file that promises more vertices than it holds costs neither memory nor a stack trace.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from utils.general_utils import atomic_path

MAX_HEADER_BYTES = 65536
_SIZES = {"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2, "int": 4,
          "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8}  # fmt: skip


class PlyError(ValueError):
    """A PLY file that cannot be used; the message is one sentence for the user."""


class _Header(NamedTuple):
    is_ascii: bool
    vertex_count: int
    types: dict[str, str]
    body_bytes: int


def read_vertices(path: str | os.PathLike[str], required: Sequence[str] = ()) -> np.ndarray:
    """Structured array [N] of the vertex element, N >= 1, with every field of `required` present and finite.

    Raises PlyError, in one sentence, for a file that is absent, no PLY, truncated, empty, incomplete or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise PlyError(f"{path} is not a file; expected a PLY point cloud, check the path")
    header = _read_header(path)
    _check_header(path, header, required)
    try:
        vertices = np.array(PlyData.read(str(path), mmap=False)["vertex"].data)
    except (PlyParseError, ValueError, KeyError, EOFError, OverflowError, MemoryError) as error:
        raise PlyError(f"{path} cannot be read as PLY ({error}): damaged; copy or write it again") from error
    for name in required:
        bad = int(np.count_nonzero(~np.isfinite(vertices[name])))
        if bad:
            raise PlyError(f"{path} has {bad} non-finite values (NaN, infinity) in {name!r}; remove those vertices")
    return vertices


def write_vertices(path: str | os.PathLike[str], vertices: np.ndarray) -> None:
    """Write a structured array [N] as the one `vertex` element, little-endian binary, atomically."""
    with atomic_path(path) as temporary:
        # as upstream's files: plyfile's own byte order is that of the machine
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))


def _read_header(path: Path) -> _Header:
    """Format, vertex count and scalar fields, reading at most MAX_HEADER_BYTES."""
    with open(path, "rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    if start[:3] != b"ply" or b"end_header" not in start:
        raise PlyError(f"{path} is no PLY file (no header from 'ply' to 'end_header'); expected a PLY point cloud")
    end = start.index(b"end_header")
    body_start = start.find(b"\n", end) + 1 or len(start)
    lines = [line.split() for line in start[:end].decode("ascii", errors="replace").splitlines()]
    count, types, element = -1, {}, None
    for words in lines:
        if words[:1] == ["element"] and len(words) == 3:
            element = words[1]
            if element == "vertex" and words[2].isdigit() and len(words[2]) < 16:
                count = int(words[2])
        elif words[:1] == ["property"] and element == "vertex" and len(words) >= 3:
            types[words[-1]] = words[1]
    return _Header(["format", "ascii", "1.0"] in lines, count, types, path.stat().st_size - body_start)


def _check_header(path: Path, header: _Header, required: Sequence[str]) -> None:
    """Raise PlyError where the header alone shows that the file cannot serve."""
    if header.vertex_count < 0:
        raise PlyError(f"{path} has no 'vertex' element; expected a PLY point cloud")
    missing = [name for name in required if name not in header.types]
    if missing:
        has = ", ".join(header.types) or "none"
        raise PlyError(f"{path} lacks the vertex fields {', '.join(missing)}; it has {has}")
    odd = [name for name in required if header.types[name] not in _SIZES]
    if odd:
        kind = header.types[odd[0]]
        raise PlyError(f"{path} declares the vertex field {odd[0]} as {kind!r}; expected a single number")
    if header.vertex_count == 0:
        raise PlyError(f"{path} holds 0 vertices; expected at least one point")
    # ascii: at least one digit and one separator a value
    row_bytes = sum(2 if header.is_ascii else _SIZES.get(kind, 1) for kind in header.types.values())
    if header.vertex_count * row_bytes > header.body_bytes + header.is_ascii:
        raise PlyError(
            f"{path} is truncated: its header promises {header.vertex_count} vertices of at least {row_bytes} bytes, "
            f"{header.body_bytes} bytes follow; copy or write it again"
        )
