# SPDX-License-Identifier: Apache-2.0
"""Reading and writing vertex clouds as PLY. The only module that imports plyfile (GPL-3.0-or-later).

The header is parsed by scene/ply_header.py. Rows of one size are read by NumPy, lists and text by plyfile, which is
given a header of its own: without comments, of names in ASCII, and ending with the vertices.
"""

import io
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from arguments.coerce import show
from scene.ply_file import PlyError, open_bytes
from scene.ply_header import BYTE_ORDERS, DTYPES, Element, Header, check_sizes, read_header
from utils.general_utils import atomic_path

PLYFILE_TYPES = {"f2": "double", "f4": "double", "i8": "double", "u8": "double"}
"""Types given to plyfile for text, in place of unknown ones and of those in which a large number becomes infinite."""


@dataclass(frozen=True)
class PlyFile:
    """An open PLY file, plain or compressed, of which the header has been read."""

    path: Path
    header: Header
    file: BinaryIO

    @property
    def fields(self) -> list[str]:
        """Names of the vertex element's fields. Raises PlyError as `vertices` does."""
        return list(_checked_vertex(self.path, self.header, ()).types)

    def vertices(self, required: Sequence[str] = ()) -> np.ndarray:
        """Structured array [N] of the vertex element, N >= 1, in which every field of `required` is a number.

        Nothing is said about the numbers: any may be NaN or infinite. Raises PlyError, in one sentence, for a file that
        is truncated, empty or incomplete.
        """
        vertex = _checked_vertex(self.path, self.header, required)
        check_sizes(self.path, self.header)
        if not self.header.is_ascii and all(row.is_fixed for row in (*self.header.before(vertex), vertex)):
            return _read_fixed(self, vertex)
        try:
            return np.array(_through_plyfile(self, vertex))
        except (PlyParseError, ValueError, KeyError, EOFError, OverflowError, MemoryError) as error:
            reason = textwrap.shorten(str(error), 200)
            message = f"{self.path} cannot be read as PLY ({reason}): damaged; copy or write it again"
            raise PlyError(message) from error

    def fields_of(self, name: str) -> list[str]:
        """Names of an element's fields; none of one that is not there."""
        element = self.header.element(name)
        return [] if element is None else list(element.types)

    def rows(self, name: str, required: Sequence[str] = ()) -> np.ndarray:
        """Structured array of an element of a binary file in which no row has lists. Raises PlyError."""
        element = _checked_element(self.path, self.header, name, required)
        check_sizes(self.path, self.header)
        if self.header.is_ascii or not all(row.is_fixed for row in (*self.header.before(element), element)):
            raise PlyError(f"{self.path} holds text or lists; expected numbers in binary form")
        return _read_fixed(self, element)


@contextmanager
def open_ply(path: str | os.PathLike[str]) -> Iterator[PlyFile]:
    """A PLY file, or a `.ply.xz` one. Raises PlyError, one sentence, for what is absent or no PLY."""
    with open_bytes(Path(path)) as file:
        yield PlyFile(Path(path), read_header(Path(path), file), file)


def vertex_count(path: str | os.PathLike[str]) -> int:
    """Number of vertices, from the header alone. Raises PlyError as read_vertices does."""
    with open_ply(path) as ply:
        return _checked_vertex(ply.path, ply.header, ()).count


def read_vertices(path: str | os.PathLike[str], required: Sequence[str] = ()) -> np.ndarray:
    """PlyFile.vertices of the file at `path`. Raises PlyError."""
    with open_ply(path) as ply:
        return ply.vertices(required)


def write_vertices(path: str | os.PathLike[str], vertices: np.ndarray, comments: Sequence[str] = ()) -> None:
    """Write a structured array [N] as the one `vertex` element, little-endian binary, atomically.

    Raises PlyError for N = 0, which no program reads.
    """
    if not len(vertices):
        raise PlyError(f"{path} would hold 0 vertices; expected at least one point")
    with atomic_path(path) as temporary:
        _as_ply(vertices, comments).write(str(temporary))


def ply_content(vertices: np.ndarray) -> bytes:
    """What `write_vertices` writes."""
    content = io.BytesIO()
    _as_ply(vertices).write(content)
    return content.getvalue()


def _as_ply(vertices: np.ndarray, comments: Sequence[str] = ()) -> PlyData:
    """In the byte order of upstream's files; plyfile's own is that of the machine."""
    return PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=list(comments))


def _checked_vertex(path: Path, header: Header, required: Sequence[str]) -> Element:
    """The vertex element. Raises PlyError where the header alone shows that the file cannot serve."""
    vertex = _checked_element(path, header, "vertex", required)
    if vertex.count == 0:
        raise PlyError(f"{path} holds 0 vertices; expected at least one point")
    return vertex


def _checked_element(path: Path, header: Header, element: str, required: Sequence[str]) -> Element:
    """The element of that name. Raises PlyError where it is not there or lacks a field that is a number."""
    found = header.element(element)
    if found is None:
        raise PlyError(f"{path} has no '{element}' element; expected a PLY point cloud")
    missing = [name for name in required if name not in found.types]
    if missing:
        fields = textwrap.shorten(", ".join(found.types) or "none", 300)
        raise PlyError(f"{path} lacks the {element} fields {', '.join(missing)}; it has {fields}")
    odd = [name for name in required if len(found.types[name]) > 1 or found.types[name][0] not in DTYPES]
    if odd:
        kind = show(found.types[odd[0]][0])
        raise PlyError(f"{path} declares the {element} field {odd[0]} as {kind}; expected a single number")
    return found


def _read_fixed(ply: PlyFile, element: Element) -> np.ndarray:
    """Rows of one size, after others of one size."""
    before = sum(other.count * other.dtype("<").itemsize for other in ply.header.before(element))
    rows = np.empty(element.count, element.dtype(ply.header.byte_order))
    ply.file.seek(ply.header.body_start + before)
    if ply.file.readinto(rows.view(np.uint8)) < rows.nbytes:  # type: ignore[attr-defined]  # both kinds have it
        name = "vertices" if element.name == "vertex" else f"rows of {show(element.name)}"
        raise PlyError(
            f"{ply.path} is truncated: its header declares {element.count} {name} of {rows.itemsize} bytes after "
            f"{before} others, {ply.header.body_bytes} bytes follow; copy or write it again"
        )
    return rows.astype(element.dtype("="), copy=False)


def _through_plyfile(ply: PlyFile, vertex: Element) -> np.ndarray:
    """The vertices of text, or of rows of which some have lists, which become arrays of objects."""
    header = ply.header
    format = next(name for name, order in BYTE_ORDERS.items() if order == header.byte_order)
    lines = ["ply", f"format {format} 1.0"]
    for element in (*header.before(vertex), vertex):
        lines.append(f"element {_as_ascii(element.name)} {element.count}")
        for name, words in element.types.items():
            names = [PLYFILE_TYPES.get(DTYPES.get(word, ""), word) if header.is_ascii else word for word in words]
            lines.append(f"property {' '.join(names)} {_as_ascii(name)}")
    ply.file.seek(header.body_start)
    body = ply.file.read(header.body_bytes)
    if header.is_ascii:
        body = b"\n".join(line for line in body.splitlines() if line.strip())
    content = "\n".join([*lines, "end_header", ""]).encode("ascii") + body
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # an empty list
        data = PlyData.read(io.BytesIO(content))["vertex"].data
    data.dtype.names = tuple(vertex.types)
    return data


def _as_ascii(name: str) -> str:
    """A name of an element or a property as plyfile takes it; different names stay different."""
    return name.encode("unicode_escape").decode("ascii")
