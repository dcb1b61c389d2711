# SPDX-License-Identifier: Apache-2.0
"""The header of a PLY file, as programs of all kinds write it.

Comments may hold any bytes, lines may end in any way and in blanks, unknown lines are skipped. A file that declares
more than it holds is refused here, before its data cost memory or time.
"""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from arguments.coerce import show
from scene.ply_file import PlyError

MAX_HEADER_BYTES = 1 << 24
"""Comments included, which some programs fill with a whole log."""
MAX_LINES, MAX_DECLARATIONS = 1 << 18, 4096
DTYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "int64": "i8", "uint64": "u8",
    "half": "f2", "float16": "f2", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
    "i1": "i1", "u1": "u1", "i2": "i2", "u2": "u2", "i4": "i4", "u4": "u4", "f4": "f4", "f8": "f8",
}  # fmt: skip
"""PLY's name of a type -> NumPy's."""
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class Element:
    """What a header declares of one element. `types` has the words between "property" and the name."""

    name: str
    count: int
    types: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_fixed(self) -> bool:
        """Whether every row has the same number of bytes in a binary file: no lists, known types only."""
        return all(len(words) == 1 and words[0] in DTYPES for words in self.types.values())

    def dtype(self, byte_order: str) -> np.dtype:
        """Of a row, where `is_fixed`."""
        return np.dtype([(name, byte_order + DTYPES[words[0]]) for name, words in self.types.items()])

    def least_row_bytes(self, is_ascii: bool) -> int:
        """No row is shorter. ascii: a digit and a separator a value; a list in binary: its length."""
        if is_ascii:
            return 2 * len(self.types)
        sizes = (words[1] if words[0] == "list" else words[0] for words in self.types.values())
        return sum(np.dtype(DTYPES.get(kind, "i1")).itemsize for kind in sizes)


@dataclass
class Header:
    """Elements in the file's order, its byte order ("" for ascii), where the data begin and how many bytes follow, and
    the short ones of its comments."""

    elements: list[Element]
    byte_order: str
    body_start: int
    body_bytes: int
    comments: list[str]

    @property
    def is_ascii(self) -> bool:
        """Whether the data are text."""
        return not self.byte_order

    def element(self, name: str) -> Element | None:
        """The element of that name; the points' is "vertex"."""
        return next((element for element in self.elements if element.name == name), None)

    def before(self, element: Element) -> list[Element]:
        """The elements whose data precede that one's."""
        return self.elements[: self.elements.index(element)]


def read_header(path: Path, file: BinaryIO) -> Header:
    """Of the file, whose `path` is for messages. Raises PlyError, in one sentence, for anything but a PLY header."""
    lines, comments, start = _lines(path, file.read(MAX_HEADER_BYTES))
    words = [line.split() for line in lines]
    formats = [line[1] for line in words if line[0] == "format" and len(line) > 1]
    if len(formats) != 1 or formats[0] not in BYTE_ORDERS:
        given = show(formats[0]) if formats else "none"
        raise PlyError(f"{path} declares the format {given}; expected one of {', '.join(BYTE_ORDERS)}: damaged")
    return Header(_elements(path, words), BYTE_ORDERS[formats[0]], start, file.seek(0, io.SEEK_END) - start, comments)


def _lines(path: Path, content: bytes) -> tuple[list[str], list[str], int]:
    """The lines that declare something, the comments of up to 64 bytes, and where the data begin, in the file's first
    bytes."""
    content_start = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    old_mac = re.match(rb"ply[ \t]*\r(?!\n)", content[content_start:])
    newline = b"\r" if old_mac else b"\n"
    declarations, comments, place = list[str](), list[str](), content_start
    for number in range(MAX_LINES):
        end = content.find(newline, place)
        line = content[place:end]
        word = line[:64].split(maxsplit=1)[:1]
        if end < 0 or (number == 0 and line.split() != [b"ply"]):
            break
        place = end + 1
        if word == [b"end_header"]:
            return declarations, comments, place
        if word and word[0] in (b"format", b"element", b"property"):
            declarations.append(line.decode("utf-8", errors="backslashreplace"))  # names stay different
        if word == [b"comment"] and len(line) <= 64:
            comments.append(line.decode("utf-8", errors="replace").strip().removeprefix("comment"))
        if len(declarations) > MAX_DECLARATIONS:
            raise PlyError(f"{path} declares more than {MAX_DECLARATIONS} elements and properties; expected vertices")
    raise PlyError(f"{path} is not a PLY file (no header from 'ply' to 'end_header'); expected a PLY point cloud")


def _elements(path: Path, lines: list[list[str]]) -> list[Element]:
    elements: list[Element] = []
    for words in lines:
        if words[0] == "element":
            count = words[2] if len(words) == 3 else ""
            if not (count.isascii() and count.isdecimal() and len(count) <= 15):
                name = show(" ".join(words[1:-1]))
                raise PlyError(f"{path} declares {show(words[-1])} of {name}; expected a count: damaged")
            elements.append(Element(words[1], int(count)))
        elif words[0] == "property":
            if not elements or len(words) != (5 if words[1:2] == ["list"] else 3):
                raise PlyError(f"{path} has the invalid property line {show(' '.join(words))}: damaged")
            if words[-1] in elements[-1].types:
                raise PlyError(f"{path} declares the property {show(words[-1])} twice: damaged")
            elements[-1].types[words[-1]] = words[1:-1]
    names = [element.name for element in elements]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlyError(f"{path} declares the element {show(twice[0])} twice: damaged")
    return elements


def check_sizes(path: Path, header: Header) -> None:
    """Raise PlyError if the file is too short for the rows that its header declares."""
    for element in header.elements:
        rows = "vertices" if element.name == "vertex" else f"rows of {show(element.name)}"
        if element.count and not element.types:
            raise PlyError(f"{path} declares {element.count} {rows} without a field; expected at least one: damaged")
        least = element.least_row_bytes(header.is_ascii)
        if element.count * least > header.body_bytes + header.is_ascii:
            raise PlyError(
                f"{path} is truncated: its header declares {element.count} {rows} of at least {least} bytes, "
                f"{header.body_bytes} bytes follow; copy or write it again"
            )
