# SPDX-License-Identifier: Apache-2.0
"""PLY files as other programs write them, byte by byte: any header, order, type and byte order."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

GAUSSIAN = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
GOOD = dict(zip(GAUSSIAN, [0.25, -0.5, 0.125, 1.0, 0.5, -0.25, 3.0, -3.0, -2.5, -2.0, 1.0, 0.5, 0.0, -0.25]))
"""Exact in every type of floating point."""
SIZES = {"float": "f4", "double": "f8", "half": "f2", "f4": "f4", "float32": "f4", "float64": "f8", "uchar": "u1", "uint8": "u1", "ushort": "u2", "int": "i4", "short": "i2", "uint": "u4", "char": "i1"}  # fmt: skip


def rows(count: int = 3, **changes: object) -> dict[str, list]:
    """Columns of `count` Gaussians; a change is a value for all rows or a list with one for each."""
    columns = {name: [value + (k if name == "x" else 0) for k in range(count)] for name, value in GOOD.items()}
    for name, value in changes.items():
        columns[name] = list(value) if isinstance(value, Sequence) else [value] * count
    return columns


def write(
    path: Path,
    columns: Mapping[str, Sequence],
    *,
    types: Mapping[str, str] | str = "float",
    form: str = "binary_little_endian",
    newline: str = "\n",
    comments: Sequence[str | bytes] = (),
    before: tuple[str, bytes] = ("", b""),
    after: tuple[str, bytes] = ("", b""),
    separator: str = " ",
    end: str = "end_header",
) -> Path:
    """`columns` in their order. A type "list uchar int" takes rows of whole numbers. before, after: header lines and data."""
    count = len(next(iter(columns.values())))
    kind_of = {name: types if isinstance(types, str) else types.get(name, "float") for name in columns}
    lines: list[str | bytes] = ["ply", f"format {form} 1.0", *(("comment " if isinstance(c, str) else b"comment ") + c for c in comments)]
    lines += [*before[0].splitlines(), separator.join(("element", "vertex", str(count)))]
    lines += [separator.join(("property", kind, name)) for name, kind in kind_of.items()]
    lines += [*after[0].splitlines(), end, ""]
    head = newline.encode().join(line if isinstance(line, bytes) else line.encode() for line in lines)
    order = ">" if "big" in form else "<"
    body = b""
    for k in range(count):
        for name, kind in kind_of.items():
            value = columns[name][k]
            if form == "ascii":
                body += " ".join(map(str, [len(value), *value] if isinstance(value, list) else [value])).encode() + b" "
            elif kind.startswith("list"):
                length, item = (order + SIZES[word] for word in kind.split()[1:])
                body += np.array(len(value), length).tobytes() + np.array(value, item).tobytes()
            else:
                body += np.array(value).astype(order + SIZES[kind]).tobytes()
        body += newline.encode() if form == "ascii" else b""
    path.write_bytes(head + before[1] + body + after[1])
    return path
