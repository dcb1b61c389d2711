# SPDX-License-Identifier: Apache-2.0
"""Reading PlayCanvas's compressed PLY, which SuperSplat writes; `export/compressed_ply.py` writes it.

Groups of 256 Gaussians have ranges of positions, log scales and colours, each Gaussian four words of 32 bits: shares of
the ranges in 11, 10 and 11 bits or in bytes, and a quaternion by its largest part's number and the other three.
"""

from collections.abc import Sequence

import numpy as np

from scene.ply import PlyFile
from scene.ply_file import PlyError
from utils.sh_utils import RGB2SH
from utils.wording import counted

GROUP = 256
POSITION_BITS = (11, 10, 11)
"""Of x, y and z, the first in the highest bits; of log scales too."""
REST_RANGE = 8.0
"""View dependence is held from -4 to 4."""
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
GROUPS, REST = "chunk", "sh"
"""Elements beside the vertices; the second only of SH degrees above 0."""


def is_compressed(names: list[str]) -> bool:
    """Whether vertices with these fields are packed."""
    return PACKED[0] in names


def unpacked(ply: PlyFile) -> np.ndarray:
    """Structured array [N] of float64 with the fields of a plain PLY of Gaussians. Raises PlyError, in one sentence."""
    vertex = ply.rows("vertex", PACKED)
    colours = range_fields("", "rgb")
    if not set(colours) & set(ply.fields_of(GROUPS)):
        colours = []  # of the format's first version
    groups = ply.rows(GROUPS, [*range_fields("", "xyz"), *range_fields("scale_", "xyz"), *colours])
    if len(groups) != -(-len(vertex) // GROUP):
        number, gaussians = counted(len(groups), "group"), counted(len(vertex), "Gaussian")
        raise PlyError(f"{ply.path} holds {number} of {GROUP} for {gaussians}: damaged")
    group = np.arange(len(vertex)) // GROUP

    def between(shares: np.ndarray, prefix: str, axes: str) -> np.ndarray:
        low, high = (
            np.stack([groups[name].astype(np.float64) for name in names], axis=1)[group]
            for names in np.split(np.array(range_fields(prefix, axes)), 2)
        )
        with np.errstate(all="ignore"):  # ranges may be anything
            return low + shares * (high - low)

    position, rotation, scale, colour = _words(ply, vertex, PACKED, 4)
    rgba = split(colour, (8, 8, 8, 8))
    columns = dict(zip("xyz", between(split(position, POSITION_BITS), "", "xyz").T))
    columns |= _numbered("scale", between(split(scale, POSITION_BITS), "scale_", "xyz"))
    columns |= _numbered("f_dc", RGB2SH(between(rgba[:, :3], "", "rgb") if colours else rgba[:, :3]))
    columns |= _numbered("rot", unpacked_rotation(rotation))
    with np.errstate(divide="ignore"):  # opacities of 0 and 1
        columns["opacity"] = np.log(rgba[:, 3]) - np.log1p(-rgba[:, 3])
    if count := sum(name.startswith("f_rest_") for name in ply.fields_of(REST)):
        names = [f"f_rest_{k}" for k in range(count)]
        rest = ply.rows(REST, names)
        if len(rest) != len(vertex):
            gaussians = counted(len(vertex), "Gaussian")
            raise PlyError(f"{ply.path} holds the view dependence of {len(rest)} of {gaussians}: damaged")
        columns |= {name: unpacked_rest(steps) for name, steps in zip(names, _words(ply, rest, names, 1))}
    table = np.empty(len(vertex), [(name, np.float64) for name in columns])
    for name, column in columns.items():
        table[name] = column
    return table


def split(words: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """[N, len(bits)] of values in 0..1 in the lowest bits of words [N], the first in the highest of them."""
    shifts = [sum(bits[k + 1 :]) for k in range(len(bits))]
    return np.stack([(words >> shift & (1 << n) - 1) / ((1 << n) - 1) for shift, n in zip(shifts, bits)], axis=1)


def unpacked_rotation(words: np.ndarray) -> np.ndarray:
    """Unit quaternions w, x, y, z [N, 4] of words [N]."""
    others = (split(words, (10, 10, 10)) - 0.5) * np.sqrt(2)
    quaternions = np.empty((len(words), 4))
    quaternions[np.arange(4) != (words >> 30)[:, None]] = others.ravel()
    largest = np.sqrt(np.clip(1 - np.square(others).sum(axis=1), 0, None))
    np.put_along_axis(quaternions, (words >> 30)[:, None], largest[:, None], axis=1)
    return quaternions


def unpacked_rest(steps: np.ndarray) -> np.ndarray:
    """Coefficients of view dependence of bytes: the middle of a step, the ends of the first and the last."""
    share = np.where(steps == 0, 0.0, np.where(steps == 255, 1.0, (steps + 0.5) / 256))
    return (share - 0.5) * REST_RANGE


def range_fields(prefix: str, axes: str) -> list[str]:
    """Names of a group's lower ends, then of its upper ones."""
    return [f"{end}_{prefix}{axis}" for end in ("min", "max") for axis in axes]


def _words(ply: PlyFile, rows: np.ndarray, names: Sequence[str], size: int) -> list[np.ndarray]:
    """Fields of `size` bytes as numbers from 0. Raises PlyError for other types."""
    if odd := [name for name in names if rows[name].dtype.kind not in "iu" or rows[name].dtype.itemsize != size]:
        kind = rows[odd[0]].dtype
        raise PlyError(f"{ply.path} declares {odd[0]} as {kind}; expected whole numbers of {8 * size} bits: damaged")
    return [rows[name].astype(np.int64) & ((1 << 8 * size) - 1) for name in names]


def _numbered(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}_{k}": column for k, column in enumerate(values.T)}
