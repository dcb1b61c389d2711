# SPDX-License-Identifier: Apache-2.0
"""Writing PlayCanvas's compressed PLY, which scene/compressed_ply.py describes and reads. N Gaussians, C groups."""

from pathlib import Path

import numpy as np
import torch

from export.cloud import UP, rotated
from export.limits import check, fitted, report_rounding
from export.options import Options
from scene.compressed_ply import GROUP, PACKED, POSITION_BITS, REST_RANGE, range_fields
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from utils.general_utils import atomic_path
from utils.sh_utils import SH2RGB

CHUNK_FIELDS = [*range_fields("", "xyz"), *range_fields("scale_", "xyz"), *range_fields("", "rgb")]


def write_compressed_ply(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Sorted so that a group's Gaussians are near one another, for its steps are shares of its ranges."""
    check(gaussians, "compressed.ply")
    gaussians = rotated(fitted(gaussians, "compressed.ply"), UP[options.up])
    order = z_order(gaussians.get_xyz)
    report_rounding(gaussians, stored_positions(gaussians.get_xyz.detach().numpy(), order.numpy()), "compressed.ply")
    content = compressed(gaussians, order)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)


def z_order(xyz: torch.Tensor) -> torch.Tensor:
    """[N] indices along a space-filling curve (Morton's) over the ranks of the positions [N, 3]."""
    ranks = xyz.detach().argsort(dim=0).argsort(dim=0) * 1024 // len(xyz)
    code = torch.zeros(len(xyz), dtype=torch.long)
    for bit in range(10):
        for axis in range(3):
            code |= (ranks[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(stable=True)


@torch.no_grad()
def compressed(gaussians: GaussianModel, order: torch.Tensor) -> bytes:
    """The file's content, with the Gaussians in this order [N]."""
    parameters = gaussians.parameters_in_order()
    raw = {name: parameters[name][order].double().numpy() for name in PER_GAUSSIAN}
    position, low_high = shares(raw["xyz"])
    scale, scale_low_high = shares(raw["scaling"])
    colour, colour_low_high = shares(SH2RGB(raw["f_dc"][:, 0]))
    opacity = gaussians.get_opacity[order].double().numpy()
    words = np.stack(
        [
            packed(position, POSITION_BITS),
            packed_rotation(gaussians.get_rotation[order].double().numpy()),
            packed(scale, POSITION_BITS),
            packed(np.concatenate([colour, opacity], axis=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    rest = raw["f_rest"].transpose(0, 2, 1).reshape(len(order), -1)  # channel by channel, as in a PLY
    steps = np.clip(np.floor((rest / REST_RANGE + 0.5) * 256), 0, 255).astype(np.uint8)
    ranges = np.concatenate([low_high, scale_low_high, colour_low_high], axis=1).astype("<f4")
    return (
        header(len(ranges), len(order), rest.shape[1], gaussians.comments())
        + ranges.tobytes()
        + words.astype("<u4").tobytes()
        + steps.tobytes()
    )


def shares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of [N, 3] lies in its group's range, 0 to 1, and the ranges [C, 6], rounded as they are stored."""
    starts = np.arange(0, len(values), GROUP)
    low, high = (reduce.reduceat(values, starts).astype(np.float32) for reduce in (np.minimum, np.maximum))
    group = np.arange(len(values)) // GROUP
    extent = np.where(high > low, high.astype(float) - low, 1.0)
    return np.clip((values - low[group]) / extent[group], 0, 1), np.concatenate([low, high], axis=1)


def stored_positions(xyz: np.ndarray, order: np.ndarray) -> np.ndarray:
    """[N, 3]: the positions that a reader computes from the file, not in its order."""
    share, low_high = shares(xyz[order].astype(np.float64))
    low, high = low_high[np.arange(len(xyz)) // GROUP].astype(np.float64).reshape(-1, 2, 3).swapaxes(0, 1)
    steps = (1 << np.array(POSITION_BITS)) - 1
    stored = np.empty_like(share)
    stored[order] = low + np.round(share * steps) / steps * (high - low)
    return stored


def packed(values: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """[N] words of values in 0..1 [N, len(bits)], the first in the highest bits."""
    word = np.zeros(len(values), np.int64)
    for column, count in enumerate(bits):
        word = word << count | np.round(values[:, column] * ((1 << count) - 1)).astype(np.int64)
    return word


def packed_rotation(quaternions: np.ndarray) -> np.ndarray:
    """[N] words of unit quaternions w, x, y, z [N, 4]: which is the largest in two bits, the others in ten each."""
    largest = np.abs(quaternions).argmax(axis=1)
    positive = quaternions * np.where(np.take_along_axis(quaternions, largest[:, None], 1) < 0, -1.0, 1.0)
    others = positive[np.arange(4) != largest[:, None]].reshape(-1, 3)
    return largest << 30 | packed(np.clip(others / np.sqrt(2) + 0.5, 0, 1), (10, 10, 10))


def header(chunks: int, count: int, rest: int, comments: list[str]) -> bytes:
    """The PLY header for C groups, N Gaussians and as many values of view dependence of each."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    lines += [f"element chunk {chunks}"]
    lines += [f"property float {name}" for name in CHUNK_FIELDS]
    lines += [f"element vertex {count}", *(f"property uint {name}" for name in PACKED)]
    if rest:
        lines += [f"element sh {count}", *(f"property uchar f_rest_{k}" for k in range(rest))]
    return "\n".join([*lines, "end_header", ""]).encode()
