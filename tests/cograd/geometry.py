# SPDX-License-Identifier: Apache-2.0
"""The grid's geometry the other way round: the region that a pose lies in, and distances between any two regions."""

import torch
from torch import Tensor

from cograd.regions import RegionGrid, level_distance

ROUNDING_DEG, ROUNDING_SHARE = 1e-4, 1e-6  # what the angles and the radius of a float32 camera may be off by


def index(grid: RegionGrid, coordinates: Tensor) -> Tensor:
    """Region indices [...] of levels (e, a, d) [..., 3]."""
    e, a, d = coordinates.unbind(-1)
    return (e * grid.levels[1] + a) * grid.levels[2] + d


def distance(grid: RegionGrid, i: Tensor, j: Tensor) -> Tensor:
    """d_ij of region indices that broadcast."""
    return level_distance(grid.coordinates(i) - grid.coordinates(j), grid.levels[1])


def region_of(grid: RegionGrid, theta_deg: float, phi_deg: float, radius: float) -> int:
    """The region that a pose lies in; -1 for a pose outside of all by more than what a float32 camera loses."""
    place = torch.tensor([90 - theta_deg, phi_deg % 360, radius], dtype=torch.float64)
    offset, rounding = place - grid.low, torch.tensor([ROUNDING_DEG, ROUNDING_DEG, ROUNDING_SHARE * radius])
    if not bool(((offset >= -rounding) & (offset <= grid.step * torch.tensor(grid.levels) + rounding)).all()):
        return -1
    level = torch.where(grid.step > 0, offset / grid.step, 0.0).long()  # [3]
    return int(index(grid, torch.minimum(level.clamp(min=0), torch.tensor(grid.levels) - 1)))
