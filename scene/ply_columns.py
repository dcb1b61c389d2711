# SPDX-License-Identifier: Apache-2.0
"""Columns of a PLY's vertices as numbers that can be computed with in single precision, and colours of any kind.

Columns are [N]. They are checked before they are rounded to float32, in which a large double is infinite.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scene.ply_file import PlyError
from utils.wording import counted

logger = logging.getLogger(__name__)

MAX_NUMBER = 1e18
"""Largest number whose square, as lengths and covariances have it, is finite in float32."""
COLOUR_FIELDS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)
COLOUR_SLACK = 1e-3
"""By so much a stored float colour may leave 0..1; it is clipped."""


def columns(vertices: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named fields, each a number a vertex: float32 [N] as it is, all else as float64."""
    return {n: vertices[n] if vertices.dtype[n] == np.float32 else vertices[n].astype(np.float64) for n in names}


def out_of_range(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Field -> where [N] it is NaN or larger than MAX_NUMBER in size, for each field that has such numbers."""
    bad = {name: ~(np.abs(column) <= MAX_NUMBER) for name, column in table.items()}
    return {name: rows for name, rows in bad.items() if rows.any()}


def usable_rows(path: Path, count: int, unusable: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [N]: rows that none of `unusable`, reason -> bool [N], names; how many are left out is logged.

    Raises PlyError where none remains.
    """
    reasons = [f"{int(rows.sum()):,} {reason}" for reason, rows in unusable.items() if rows.any()]
    kept = ~np.logical_or.reduce([np.zeros(count, dtype=bool), *unusable.values()])
    listed = "; ".join(reasons)
    if not kept.any():
        raise PlyError(f"{path} holds no usable row among {count:,}: {listed}")
    if reasons:
        logger.warning("%s: %s of %s rows are left out: %s", path, f"{count - int(kept.sum()):,}", f"{count:,}", listed)
    return kept


def not_finite(bad: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `out_of_range` found, as one reason for `usable_rows`."""
    if not bad:
        return {}
    names = list(bad)
    listed = ", ".join(names[:4]) + (f" and {counted(len(names) - 4, 'more field')}" if len(names) > 4 else "")
    return {f"with NaN, infinity or more than {MAX_NUMBER:g} in {listed}": np.logical_or.reduce(list(bad.values()))}


def colour_fields(names: Sequence[str]) -> tuple[str, str, str] | None:
    """The names of red, green and blue among a table's, None where it has no colours."""
    return next((fields for fields in COLOUR_FIELDS if set(fields) <= set(names)), None)


def colours(path: Path, vertices: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    """[N, 3] in 0..1, NaN where the file has NaN. Raises PlyError for numbers that are no colours.

    uchar stands for 0..255. Other integers do too, unless one is larger: then for 0..65535. Floats stand for 0..1,
    unless one is larger: then for 0..255.
    """
    stored = np.stack([vertices[name].astype(np.float64) for name in fields], axis=1)
    kinds = {vertices.dtype[name] for name in fields}
    finite = stored[np.isfinite(stored)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    are_integers = all(np.issubdtype(kind, np.integer) for kind in kinds)
    scales = (255.0, 65535.0) if are_integers else (1.0, 255.0)
    scale = next((scale for scale in scales if high <= scale * (1 + COLOUR_SLACK)), None)
    if scale is None or low < -COLOUR_SLACK * scale:
        expected = "0..255 or 0..65535" if are_integers else "0..1 or 0..255"
        raise PlyError(f"{path} stores {', '.join(fields)} from {low:g} to {high:g}; expected colours in {expected}")
    return np.clip(stored / scale, 0, 1)
