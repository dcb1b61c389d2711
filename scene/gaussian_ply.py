# SPDX-License-Identifier: Apache-2.0
"""Gaussians from a PLY file, as training programs, converters and editors write them.

N Gaussians, K = (degree + 1)^2 SH coefficients a channel. Raw parameters: log scale, opacity logit, quaternion
(w, x, y, z) of any length.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from scene.compressed_ply import is_compressed, unpacked
from scene.ply import PlyFile, open_ply
from scene.ply_columns import colour_fields, colours, columns, not_finite, out_of_range, usable_rows
from scene.ply_file import PlyError
from utils.sh_utils import RGB2SH
from utils.wording import counted

logger = logging.getLogger(__name__)

XYZ, DC = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
REST_FIELDS = (0, 9, 24, 45)
"""SH degree -> number of a PLY's f_rest fields."""
MAX_LOGIT = 80.0
"""sigmoid(80) is 1, sigmoid(-80) 2e-35: larger ones, infinity too, with which converters write 1 and 0, are as good."""
LOG_SCALES = (-80.0, 43.0)
"""Below, a Gaussian is flat at any precision; above, its covariance is infinite in float32."""
LENGTHS = (1e-6, 1e6)
"""Quaternions of other lengths are made unit ones, for their squares leave float32's range."""

ANTIALIASED_COMMENT = "SplatRenderMode: mip"
"""In a PLY's header, as Brush writes it and PlayCanvas's splat-transform reads and writes it."""
RENDER_MODE = re.compile(r"\s*(?:splatrendermode:|antialiased\s|postshot\.anti_aliasing=)\s*(\w+)\s*", re.IGNORECASE)
"""That comment, or one of Postshot's: `antialiased 1`, `postshot.anti_aliasing=1`."""


def _is_antialiased(comments: Sequence[str]) -> bool:
    """Whether a PLY's header says that its Gaussians are rendered through Mip-Splatting's screen filter; the last of
    several comments counts."""
    said = [match for comment in comments if (match := RENDER_MODE.fullmatch(comment))]
    return bool(said) and said[-1][1].lower() in ("mip", "1")


def read_gaussians(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], bool]:
    """Raw parameters by name: xyz [N, 3], f_dc [N, 1, 3], f_rest [N, K - 1, 3], opacity [N, 1], scaling, rotation; and
    whether they are rendered antialiased.

    Rows of an all-zero quaternion, with which some programs pad their files, and rows that are not finite in float32
    are left out, with a notice. Raises PlyError for what is no file of Gaussians.
    """
    with open_ply(path) as ply:
        return _read_parameters(ply), _is_antialiased(ply.header.comments)


def _read_parameters(ply: PlyFile) -> dict[str, torch.Tensor]:
    path, names = ply.path, ply.fields
    vertices = unpacked(ply) if is_compressed(names) else None
    if vertices is not None:
        names = list(vertices.dtype.names or ())
    rest = [f"f_rest_{k}" for k in range(_rest_count(path, names))]
    base = None if set(DC) <= set(names) else colour_fields(names)
    scales = SCALE[:2] if SCALE[2] not in names and {*SCALE[:2]} <= set(names) else SCALE  # two: 2DGS's, which are flat
    required = [*XYZ, *(base or DC), *rest, "opacity", *scales, *ROTATION]
    _check_no_points(path, required, names)
    if vertices is None:
        vertices = ply.vertices(required)
    table = columns(vertices, [*XYZ, *rest, *ROTATION])
    if base is None:
        table |= columns(vertices, DC)
    else:  # Nerfstudio writes Gaussians of SH degree 0 so
        table |= dict(zip(DC, RGB2SH(colours(path, vertices, base)).T))
    flat = {name: np.full(len(vertices), LOG_SCALES[0]) for name in SCALE if name not in scales}
    exponents = columns(vertices, ["opacity", *scales]) | flat
    bad = out_of_range(table)
    bad |= {name: np.isnan(column) for name, column in exponents.items() if np.isnan(column).any()}
    reasons = {
        "with an all-zero quaternion (padding)": _largest({n: np.abs(table[n]) for n in ROTATION}, ROTATION) == 0,
        **not_finite(bad),
        f"with a log scale above {LOG_SCALES[1]:g}": _largest(exponents, SCALE) > LOG_SCALES[1],
    }
    kept = usable_rows(path, len(vertices), reasons)
    table["opacity"] = np.clip(exponents["opacity"], -MAX_LOGIT, MAX_LOGIT)
    table |= {name: np.maximum(exponents[name], LOG_SCALES[0]) for name in SCALE}
    parameters = _parameters({name: column[kept] for name, column in table.items()}, rest)
    stored = np.stack([table[name][kept] for name in XYZ], axis=1)
    if moved := moved_by_rounding(stored, parameters["xyz"].numpy(), parameters["scaling"].numpy()):
        logger.warning("%s: in single precision %s; move its scene to the origin before it is read", path, moved)
    return parameters


def moved_by_rounding(positions: np.ndarray, rounded: np.ndarray, log_scales: np.ndarray) -> str:
    """How many Gaussians are no longer where they were, in words; empty where none is. All [N, 3].

    Moved by more than its largest deviation, a Gaussian no longer covers the place that it was meant to.
    """
    away = np.linalg.norm(rounded.astype(np.float64) - positions, axis=1)
    moved = away > np.exp(log_scales.astype(np.float64).max(axis=1))
    if not moved.any():
        return ""
    return (
        f"the positions of {int(moved.sum()):,} of {counted(len(away), 'Gaussian')} are rounded by more than the "
        f"Gaussian's own size, by up to {away.max():.3g} units"
    )


def _largest(table: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """[N]: the largest of some columns."""
    return np.maximum.reduce([table[name] for name in names])


def _rest_count(path: Path, names: Sequence[str]) -> int:
    count = sum(name.startswith("f_rest_") for name in names)
    if count not in REST_FIELDS:
        raise PlyError(f"{path} holds {count} f_rest fields; expected 0, 9, 24 or 45, those of SH degrees 0 to 3")
    return count


def _check_no_points(path: Path, required: Sequence[str], names: Sequence[str]) -> None:
    """Raises PlyError where nothing but positions and colours is there."""
    missing = [name for name in required if name not in names]
    if {"opacity", *SCALE, *ROTATION} <= set(missing) and set(XYZ) <= set(names):
        raise PlyError(
            f"{path} holds points, not Gaussians: it lacks the vertex fields {', '.join(missing)}. Such a file "
            "can be the start of a training, as init_points3d.ply in its run folder"
        )


def _parameters(table: Mapping[str, np.ndarray], rest: Sequence[str]) -> dict[str, torch.Tensor]:
    """From columns [N], which are in range: rounded to float32 here."""

    def stacked(names: Sequence[str]) -> torch.Tensor:
        if not names:
            return torch.zeros(len(table["x"]), 0)
        return torch.from_numpy(np.stack([table[name] for name in names], axis=1).astype(np.float32))

    rotation = np.stack([table[name] for name in ROTATION], axis=1).astype(np.float64)
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    odd = (length < LENGTHS[0]) | (length > LENGTHS[1])
    return {
        "xyz": stacked(XYZ),
        "f_dc": stacked(DC)[:, None, :],
        "f_rest": stacked(rest).unflatten(1, (3, len(rest) // 3)).transpose(1, 2),  # stored channel after channel
        "opacity": stacked(("opacity",)),
        "scaling": stacked(SCALE),
        "rotation": torch.from_numpy(np.where(odd, rotation / length, rotation).astype(np.float32)),
    }
