# SPDX-License-Identifier: Apache-2.0
"""Reading and writing vertex clouds as PLY. The only module that imports plyfile (GPL-3.0-or-later).

What can be wrong with a file is found before its data are read: the header is parsed here with a size limit, so that a
file that promises more vertices than it holds costs neither memory nor a stack trace.
"""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from arguments.coerce import show
from utils.general_utils import atomic_path

MAX_HEADER_BYTES = 65536
_SIZES = {"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2, "int": 4,
          "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8}  # fmt: skip


class PlyError(ValueError):
    """A PLY file that cannot be used; the message is one sentence for the user."""


@dataclass
class _Element:
    """What a header says of one element: rows, type of each field, least bytes of a row."""

    count: int
    types: dict[str, str] = field(default_factory=dict)
    row_bytes: int = 0


class _Header(NamedTuple):
    elements: dict[str, _Element]
    is_ascii: bool
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
        vertices = np.array(PlyData.read(str(path))["vertex"].data)  # copied out of the mapped file
    except (PlyParseError, ValueError, KeyError, EOFError, OverflowError, MemoryError) as error:
        reason = textwrap.shorten(str(error), 200)
        raise PlyError(f"{path} cannot be read as PLY ({reason}): damaged; copy or write it again") from error
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
    """Every element, from at most MAX_HEADER_BYTES; lines end as the first one does, which is plyfile's reading."""
    with open(path, "rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    newline = next((end for end in (b"\r\n", b"\n", b"\r") if start.startswith(b"ply" + end)), b"")
    head, end, _ = start.partition(newline + b"end_header" + newline)
    if not newline or not end:
        raise PlyError(f"{path} is no PLY file (no header from 'ply' to 'end_header'); expected a PLY point cloud")
    lines = [line.split() for line in head.decode("ascii", errors="replace").split(newline.decode())]
    header = _Header({}, ["format", "ascii", "1.0"] in lines, path.stat().st_size - len(head) - len(end))
    element = _Element(0)
    for words in lines:
        if words[:1] == ["element"] and len(words) == 3:
            if not words[2].isdecimal() or len(words[2]) > 15:
                raise PlyError(f"{path} promises {show(words[2])} of {show(words[1])}; expected a count: damaged")
            element = header.elements[words[1]] = _Element(int(words[2]))
        elif words[:1] == ["property"] and len(words) >= 3:
            element.types[words[-1]] = words[1]
            # ascii: at least one digit and one separator a value; a list in binary: at least its length
            element.row_bytes += 2 if header.is_ascii else _SIZES.get(words[1], 1)
    return header


def _check_header(path: Path, header: _Header, required: Sequence[str]) -> None:
    """Raise PlyError where the header alone shows that the file cannot serve."""
    if "vertex" not in header.elements:
        raise PlyError(f"{path} has no 'vertex' element; expected a PLY point cloud")
    vertex = header.elements["vertex"]
    missing = [name for name in required if name not in vertex.types]
    if missing:
        has = textwrap.shorten(", ".join(vertex.types) or "none", 300)
        raise PlyError(f"{path} lacks the vertex fields {', '.join(missing)}; it has {has}")
    odd = [name for name in required if vertex.types[name] not in _SIZES]
    if odd:
        kind = show(vertex.types[odd[0]])
        raise PlyError(f"{path} declares the vertex field {odd[0]} as {kind}; expected a single number")
    if vertex.count == 0:
        raise PlyError(f"{path} holds 0 vertices; expected at least one point")
    for name, element in header.elements.items():
        _check_size(path, header, "vertices" if name == "vertex" else f"rows of {show(name)}", element)


def _check_size(path: Path, header: _Header, told: str, element: _Element) -> None:
    """Raise PlyError where a file cannot hold what its header promises of one element."""
    if element.count and not element.types:
        raise PlyError(f"{path} promises {element.count} {told} without a field; expected some: damaged")
    if element.count * element.row_bytes > header.body_bytes + header.is_ascii:
        raise PlyError(
            f"{path} is truncated: its header promises {element.count} {told} of at least {element.row_bytes} bytes, "
            f"{header.body_bytes} bytes follow; copy or write it again"
        )
