# SPDX-License-Identifier: Apache-2.0
"""The view space in regions, and which region is looked at next: Eqs. (6), (7).

| symbol | name | shape | unit |
|---|---|---|---|
| d_ij | L1 distance between regions: level steps of elevation, azimuth (wraps around) and distance | [N, K] | steps |
| n, L, L_bar | visits of a region, its last loss, the mean of its losses before (RegionHistory) | [N] | -, loss |
| r | relative convergence indicator | [N] | - |
| P | probability of a region | [N] | - |

Letters of shapes: N regions, B views, K the most neighbours that a region has. Arrays of regions are NumPy's, float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cograd.checks import indices
from cograd.history import RegionHistory
from cograd.params import CoGradParams

Range = tuple[float, float]
REGION = "the index of a region"
LARGEST_R = 1e300  # r of a loss that exploded; its quotient by tau is still finite


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers in [0, 1), float32, on the CPU whatever the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32).cpu()


@dataclass(frozen=True)
class Cell:
    """Bounds of one region, in the angles of the cameras: polar angle from +z, azimuth in 0..360."""

    theta_deg: Range
    phi_deg: Range
    radius: Range


@dataclass(frozen=True)
class RegionPoses:
    """One pose a view, each [B] float64, and the cell [B] that the camera must not leave."""

    radius: Tensor
    theta_deg: Tensor
    phi_deg: Tensor
    cells: tuple[Cell, ...]


class RegionGrid:
    """Elevation x azimuth x distance in N cells; it has no state.

    Region (e, a, d) has the index (e * A + a) * D + d; level 0 is the lowest elevation, the sector that starts at
    azimuth 0, the smallest distance. `neighbours` [N] lists (region, d) of N(i) = { j : d_ij < neighbour_distance },
    the region itself first, then the nearest.

    DECISION: the paper names neither the first azimuth nor the borders of the levels; sectors start at azimuth 0, the
    front, and the levels of elevation and distance divide their ranges evenly.
    """

    def __init__(
        self,
        levels: tuple[int, int, int] = (3, 30, 2),
        elevation_range_deg: Range = (-30.0, 60.0),
        distance_range: Range = (1.5, 2.0),
        neighbour_distance: int = 2,
    ) -> None:
        """Raises ValueError for no levels, and for several levels of an empty range."""
        self.levels = levels
        self.low = torch.tensor([elevation_range_deg[0], 0.0, distance_range[0]], dtype=torch.float64)
        high = torch.tensor([elevation_range_deg[1], 360.0, distance_range[1]], dtype=torch.float64)
        self.step = (high - self.low) / torch.tensor(levels)  # [3] deg, deg, world units
        for name, count, step in zip(("elevation", "azimuth", "distance"), levels, self.step.tolist()):
            if count < 1 or step < 0 or (step == 0 and count > 1):
                raise ValueError(f"levels of {name}: {count}, each {step:g} wide; expected 1 or more, with a width")
        self.neighbours = self._neighbourhoods(neighbour_distance)

    @classmethod
    def from_params(cls, params: CoGradParams) -> Self:
        """The grid that a config describes."""
        levels = (params.elevation_levels, params.azimuth_levels, params.distance_levels)
        return cls(levels, params.elevation_range, params.distance_range, params.neighbour_distance)

    def __len__(self) -> int:
        return self.levels[0] * self.levels[1] * self.levels[2]

    def coordinates(self, regions: Tensor) -> Tensor:
        """Levels (e, a, d) [..., 3] of region indices [...]."""
        _, sectors, distances = self.levels
        e, a, d = regions // (sectors * distances), regions // distances % sectors, regions % distances
        return torch.stack([e, a, d], dim=-1)

    def cell(self, region: int) -> Cell:
        """Bounds of a region. Elevation is counted from the horizon, theta_deg from the zenith."""
        low = self.low + self.coordinates(torch.tensor(region)) * self.step
        (e_lo, a_lo, d_lo), (e_hi, a_hi, d_hi) = low.tolist(), (low + self.step).tolist()
        return Cell((90 - e_hi, 90 - e_lo), (a_lo, a_hi), (d_lo, d_hi))

    def sample_poses(self, regions: Tensor, generator: torch.Generator) -> RegionPoses:
        """A pose in the cell of each of `regions` [B]; draws three uniform numbers for each. ValueError for no region.

        DECISION: the paper samples "a camera pose for the chosen region" by no named law; elevation, azimuth and
        distance are uniform within the cell.
        """
        cells = tuple(map(self.cell, indices(regions, "regions", REGION, len(self))))
        u = uniform(generator, len(regions), 3).double() + 2.0**-25  # half a step of float32: never on a cell's border
        elevation, azimuth, distance = (self.low + (self.coordinates(regions) + u) * self.step).unbind(-1)
        return RegionPoses(distance, 90 - elevation, azimuth, cells)

    def opposites(self) -> list[int]:
        """Of each region the one half way round the azimuth. Raises ValueError for an odd number of sectors."""
        sectors, distances = self.levels[1:]
        if sectors % 2:
            raise ValueError(f"{sectors} sectors of azimuth; expected an even number, or no region has an opposite")
        level = self.coordinates(torch.arange(len(self)))
        moved = (level[:, 1] + sectors // 2) % sectors
        return ((level[:, 0] * sectors + moved) * distances + level[:, 2]).tolist()

    def _neighbourhoods(self, limit: int) -> list[list[tuple[int, int]]]:
        elevations, sectors, distances = self.levels
        up, out = (range(1 - min(limit, count), min(limit, count)) for count in (elevations, distances))
        steps = torch.tensor(list(product(up, range(sectors), out)))
        lengths = level_distance(steps, sectors).tolist()
        moves = sorted((d, *step) for d, step in zip(lengths, steps.tolist(), strict=True) if d < limit)
        return [
            [
                (((e + de) * sectors + (a + da) % sectors) * distances + d + dd, length)
                for length, de, da, dd in moves
                if 0 <= e + de < elevations and 0 <= d + dd < distances
            ]
            for e, a, d in product(range(elevations), range(sectors), range(distances))
        ]


def level_distance(steps: Tensor, sectors: int) -> Tensor:
    """d of steps (e, a, d) [..., 3] between regions: L1, the azimuth's the shorter way round `sectors`; [...]."""
    e, a, d = steps.abs().unbind(-1)
    return e + torch.minimum(a, sectors - a) + d


def convergence_indicator(n: np.ndarray, L_bar: np.ndarray, L: np.ndarray, eps_stab: float) -> np.ndarray:
    """Eq. (6): r = (L_bar (n - 1) + L) / (L_bar n + eps_stab) where n >= 2, else 1; [N].

    DECISION: the "moving average of the first n_i - 1 loss values" L_bar is their mean.

    Numerator and denominator are divided by the larger loss first, so that no finite loss overflows.
    """
    scale = np.maximum(np.maximum(L_bar, L), 1.0)
    with np.errstate(over="ignore"):
        mean, last = L_bar / scale, L / scale
        r = (mean * (n - 1) + last) / (mean * n + eps_stab / scale)
    return np.where(n < 2, 1.0, np.minimum(r, LARGEST_R))


def log_probabilities(r: np.ndarray, tau: float) -> np.ndarray:
    """Eq. (7): log P(i) of P(i) = exp(r_i / tau) / sum_j exp(r_j / tau); [N] -> [N].

    The maximum is subtracted. In logarithms regions far behind keep their odds among each other.
    """
    z = (r - r.max()) / tau
    return z - np.log(np.exp(z).sum())


def with_visit_floor(log_p: np.ndarray, share: float) -> np.ndarray:
    """log of P <- (1 - s) P + s / N; s = 0 is the paper's P."""
    if share == 0:
        return log_p
    return np.log((1 - share) * np.exp(log_p) + share / len(log_p))


def indicators(history: RegionHistory, params: CoGradParams) -> np.ndarray:
    """r [N] of all regions."""
    return convergence_indicator(history.n, history.L_bar, history.L, params.eps_stab)


def next_log_probabilities(history: RegionHistory, params: CoGradParams) -> np.ndarray:
    """log P [N] of the next draw; uniform with use_regions off."""
    if not params.use_regions:
        return np.log(np.full(len(history), 1 / len(history)))
    return with_visit_floor(log_probabilities(indicators(history, params), params.tau), params.min_visit_share)


def draw_without_replacement(
    log_p: np.ndarray, u: Sequence[float], opposites: Sequence[int] | None = None
) -> Tensor:
    """A region for each uniform number of u [B], one after the other from what P leaves: [B] int64, all different.

    opposites [N]: where given, every second region is the opposite of the one before it, and its number is not used.
    Raises ValueError for more views than regions, and for none.

    DECISION: the paper draws one region a step; with B views a step, B different ones are drawn from P.
    """
    if not 1 <= len(u) <= len(log_p):
        raise ValueError(f"views per step: {len(u)}; expected 1 to {len(log_p)}, the number of regions: all differ")
    rest, chosen = log_p.copy(), list[int]()
    weights = np.exp(rest - rest.max())
    for k, number in enumerate(u):
        if opposites is not None and k % 2:
            chosen.append(opposites[chosen[-1]])
        else:
            cumulative = weights.cumsum()
            chosen.append(int(cumulative.searchsorted(number * cumulative[-1], side="right")))
        region = chosen[-1]
        rest[region] = -np.inf
        if weights[region] < 1:
            weights[region] = 0
        elif len(chosen) < len(u):  # the likeliest is gone: those left count by the likeliest of them
            weights = np.exp(rest - rest.max())
    return torch.tensor(chosen)
