# SPDX-License-Identifier: Apache-2.0
"""What each format can hold, checked before anything is converted.

Numbers go into half floats, bytes and fixed point, partly in another library. What does not fit would become infinite,
wrap around or coarsen the steps of all others. So: what no format holds is refused; of what one format does not hold,
positions are refused, and the rest is clipped to the nearest that it holds, which a line tells. Steps of positions
that are coarser than the Gaussians themselves are reported too.
"""

import logging
from typing import NamedTuple

import numpy as np
import torch

from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from scene.gaussian_ply import LOG_SCALES, moved_by_rounding
from scene.ply_columns import MAX_NUMBER

logger = logging.getLogger(__name__)

FIELDS = {
    "xyz": "position",
    "f_dc": "base colour (f_dc)",
    "f_rest": "view dependence (f_rest)",
    "scaling": "log scale",
    "rotation": "quaternion",
    "opacity": "opacity logit",
}
"""Parameter -> what a message calls it."""
GLTF_BYTES = 2**32 - 2**16
"""Of a gsglb file's numbers: its lengths have 32 bits, and its header is shorter than the rest."""
SHORTEST_QUATERNION = 1e-9
"""torch takes 1e-12 for nothing; a shorter one has lost its direction."""


class Range(NamedTuple):
    """From and to what a format holds a parameter."""

    low: float
    high: float


EVERY_FORMAT = {name: Range(-MAX_NUMBER, MAX_NUMBER) for name in PER_GAUSSIAN} | {"scaling": Range(*LOG_SCALES)}
HALF_COLOUR = Range(-2.3e5, 2.3e5)  # the colour 0.28 f_dc + 0.5 as a half float, which ends at 65504
RANGES: dict[str, dict[str, Range]] = {
    "ply": {},
    # the four parts of a group of 256 share their ranges
    "compressed.ply": {"scaling": Range(-20, 20), "f_dc": Range(-8, 8), "f_rest": Range(-4, 4)},
    "splat": {"f_dc": Range(-1.7725, 1.7725)},  # colours 0 to 1 as bytes
    "spz": {
        "xyz": Range(-2047.9998, 2047.9998),  # 24 bits in steps of 1/4096
        "scaling": Range(-10, 5.9375),  # bytes in steps of 1/16
        "f_dc": Range(-3.3334, 3.3334),  # bytes
        "f_rest": Range(-1, 0.9922),  # bytes
    },
    # one table of 256 values for all Gaussians, which a single large number would coarsen
    "sog": {"scaling": Range(-20, 10), "f_dc": Range(-8, 8), "f_rest": Range(-4, 4)},
    "html": {"scaling": Range(-13.8, 11.08), "f_dc": HALF_COLOUR, "f_rest": Range(-4, 4)},
    "glb": {},
    "gsglb": {},
}
"""Format -> parameter -> what it holds of it, where that is less than EVERY_FORMAT. sog: positions are stored as
logarithms; html: scales are half floats, view dependence has one step for all."""


def check(gaussians: GaussianModel, format: str) -> None:
    """Raises ValueError, one sentence, for what no format holds, NaN, infinity, all-zero quaternions, and for positions
    and sizes that this one does not."""
    raw = gaussians.parameters_in_order()
    if not len(gaussians.get_xyz):
        raise ValueError(f"the scene holds no Gaussian, and there is nothing to write as {format}.")
    if format == "gsglb" and (size := gltf_bytes(gaussians)) > GLTF_BYTES:
        given = f"{len(gaussians.get_xyz):,} Gaussians, {size:,} bytes"
        raise ValueError(f"gsglb cannot hold {given}; expected at most {GLTF_BYTES:,}: take ply, or fewer Gaussians.")
    for name, held in (EVERY_FORMAT | {"xyz": RANGES[format].get("xyz", EVERY_FORMAT["xyz"])}).items():
        _refuse(raw[name].detach(), ~((raw[name] >= held.low) & (raw[name] <= held.high)), name, held, format)
    length = torch.linalg.vector_norm(raw["rotation"].detach(), dim=1)
    short = length < SHORTEST_QUATERNION
    if short.any():
        row = int(short.nonzero()[0, 0])
        raise ValueError(f"{format} cannot hold the quaternion of Gaussian {row}, which is all but zero; remove it.")


def gltf_bytes(gaussians: GaussianModel) -> int:
    """Of all attributes of a gsglb file: positions, quaternions, scales, opacities, colours and harmonics."""
    coefficients = (gaussians.max_sh_degree + 1) ** 2
    return len(gaussians.get_xyz) * (4 * (3 + 4 + 3 + 1 + 3 * coefficients) + 4)


def fitted(gaussians: GaussianModel, format: str, is_reported: bool = True) -> GaussianModel:
    """A copy of a checked scene with nothing beyond what the format holds; a line tells what was clipped.

    Thin Gaussians are thickened silently: of scales below the least, those count whose Gaussian has no larger one.
    """
    raw = {name: value.detach() for name, value in gaussians.parameters_in_order().items() if name in PER_GAUSSIAN}
    for name, held in RANGES[format].items():
        values = raw[name]
        if name == "xyz":  # refused by `check`
            continue
        raw[name] = values.clamp(held.low, held.high)
        below = values.amax(dim=1) < held.low if name == "scaling" else (values < held.low).flatten(1).any(dim=1)
        rows = below | (values > held.high).flatten(1).any(dim=1)
        if is_reported and rows.any():
            beyond = values[rows]
            logger.warning(
                "%s holds %s from %g to %g: %s of %s Gaussians, from %g to %g, are clipped to that",
                format, FIELDS[name], *held, f"{int(rows.sum()):,}", f"{len(values):,}", beyond.min(), beyond.max(),
            )  # fmt: skip
    return gaussians.with_parameters(raw)


def report_rounding(gaussians: GaussianModel, stored: np.ndarray, format: str) -> None:
    """A line where positions as a file stores them, [N, 3], differ by more than the size of their Gaussians."""
    raw = gaussians.parameters_in_order()
    xyz, log_scales = (raw[name].detach().cpu().numpy() for name in ("xyz", "scaling"))
    if moved := moved_by_rounding(xyz, stored, log_scales):
        logger.warning("%s: %s; remove far Gaussians, rescale the scene, or take ply, gsglb or splat", format, moved)


def _refuse(values: torch.Tensor, bad: torch.Tensor, name: str, held: Range, format: str) -> None:
    """Raises ValueError for the first of the bad numbers."""
    if not bad.any():
        return
    place = tuple(bad.nonzero()[0].tolist())
    rows = int(bad.flatten(1).any(dim=1).sum())
    raise ValueError(
        f"{format} cannot hold the {FIELDS[name]} {float(values[place]):g} of Gaussian {place[0]} ({rows} of "
        f"{len(values)} Gaussians have such); expected {held.low:g} to {held.high:g}: remove or rescale them."
    )
