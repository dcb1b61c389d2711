# SPDX-License-Identifier: Apache-2.0
"""The view space in regions, and which region is looked at next: Eqs. (6), (7).

| symbol | name | shape | unit |
|---|---|---|---|
| d_ij | L1 distance between regions: level steps of elevation, azimuth (wraps around) and distance | [N, K] | steps |
| n | visits of a region | [N] | - |
| L | last loss of a region | [N] | loss |
| L_bar | mean of the first n - 1 losses of a region | [N] | loss |
| r | relative convergence indicator | [N] | - |
| P | probability of a region | [N] | - |

Letters of shapes: N regions, B views, K the most neighbours that a region has. Tables and histories live on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arguments import CoGradParams
from utils.random_streams import RandomStreams
from utils.wording import counted

Range = tuple[float, float]
STARVED_BELOW = 5  # visits; what the log calls a starved region
ROUNDING_DEG, ROUNDING_SHARE = 1e-4, 1e-6  # what the angles and the radius of a float32 camera may be off by
LARGEST_R = 1e300  # r of a loss that exploded; its quotient by tau is still finite


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
    """Elevation x azimuth x distance in N cells; remembers nothing but its geometry.

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
                raise ValueError(
                    f"{counted(count, 'level')} of {name}, {step:g} wide; "
                    "expected 1 or more levels of some width"
                )
        self.neighbours = self._neighbourhoods(neighbour_distance)

    @classmethod
    def from_params(cls, params: CoGradParams) -> RegionGrid:
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

    def index(self, coordinates: Tensor) -> Tensor:
        """Region indices [...] of levels (e, a, d) [..., 3]."""
        e, a, d = coordinates.unbind(-1)
        return (e * self.levels[1] + a) * self.levels[2] + d

    def distance(self, i: Tensor, j: Tensor) -> Tensor:
        """d_ij of region indices that broadcast: L1 in level steps, azimuth the shorter way round."""
        return level_distance(self.coordinates(i) - self.coordinates(j), self.levels[1])

    def cell(self, region: int) -> Cell:
        """Bounds of a region. Elevation is counted from the horizon, theta_deg from the zenith."""
        low = self.low + self.coordinates(torch.tensor(region)) * self.step
        (e_lo, a_lo, d_lo), (e_hi, a_hi, d_hi) = low.tolist(), (low + self.step).tolist()
        return Cell((90 - e_hi, 90 - e_lo), (a_lo, a_hi), (d_lo, d_hi))

    def sample_poses(self, regions: Tensor, streams: RandomStreams) -> RegionPoses:
        """A pose in the cell of each of `regions` [B], from the torch stream.

        DECISION: the paper samples "a camera pose for the chosen region" by no named law; elevation, azimuth and
        distance are uniform within the cell.
        """
        u = streams.rand(len(regions), 3).cpu().double() + 2.0**-25  # half a step of float32: never on a cell's border
        elevation, azimuth, distance = (self.low + (self.coordinates(regions) + u) * self.step).unbind(-1)
        cells = tuple(self.cell(region) for region in regions.tolist())
        return RegionPoses(distance, 90 - elevation, azimuth, cells)

    def region_of(self, theta_deg: float, phi_deg: float, radius: float) -> int:
        """The region that a pose lies in; any azimuth will do. Raises ValueError for a pose outside of all.

        Outside by no more than what a float32 camera loses is inside.
        """
        place = torch.tensor([90 - theta_deg, phi_deg % 360, radius], dtype=torch.float64)
        offset, rounding = place - self.low, torch.tensor([ROUNDING_DEG, ROUNDING_DEG, ROUNDING_SHARE * radius])
        inside = (offset >= -rounding) & (offset <= self.step * torch.tensor(self.levels) + rounding)
        if not bool(inside.all()):
            low, high = self.low.tolist(), (self.low + self.step * torch.tensor(self.levels)).tolist()
            raise ValueError(
                f"no region holds elevation {90 - theta_deg:g} deg at distance {radius:g}; the grid spans elevations "
                f"{low[0]:g}..{high[0]:g} deg and distances {low[2]:g}..{high[2]:g}"
            )
        level = torch.where(self.step > 0, offset / self.step, 0.0).long()  # [3]
        return int(self.index(torch.minimum(level.clamp(min=0), torch.tensor(self.levels) - 1)))

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


def convergence_indicator(n: int, L_bar: float, L: float, eps_stab: float) -> float:
    """Eq. (6): r = (L_bar (n - 1) + L) / (L_bar n + eps_stab) where n >= 2, else 1.

    DECISION: the "moving average of the first n_i - 1 loss values" L_bar is their mean.

    Numerator and denominator are divided by the larger loss first, so that no finite loss overflows.
    """
    if n < 2:
        return 1.0
    scale = max(L_bar, L, 1.0)
    r = (L_bar / scale * (n - 1) + L / scale) / (L_bar / scale * n + eps_stab / scale)
    return min(r, LARGEST_R)


def log_probabilities(r: Tensor, tau: float) -> Tensor:
    """Eq. (7): log P(i) of P(i) = exp(r_i / tau) / sum_j exp(r_j / tau); [N] -> [N].

    The maximum is subtracted. In logarithms regions far behind keep their odds among each other.
    """
    z = (r.numpy() - float(r.max())) / tau  # of so few numbers NumPy is several times faster
    return torch.from_numpy(z - np.log(np.exp(z).sum()))


def with_visit_floor(log_p: Tensor, share: float) -> Tensor:
    """log of P <- (1 - s) P + s / N; s = 0 is the paper's P."""
    if share == 0:
        return log_p
    return torch.from_numpy(np.log((1 - share) * np.exp(log_p.numpy()) + share / len(log_p)))


def draw_without_replacement(log_p: Tensor, size: int, streams: RandomStreams) -> Tensor:
    """`size` different regions [B], one after the other from what P leaves; one uniform number each."""
    rest, chosen = log_p.numpy().copy(), []
    for u in streams.rand(size).tolist():
        cumulative = np.exp(rest - rest.max()).cumsum()
        chosen.append(int(np.searchsorted(cumulative, u * cumulative[-1], side="right")))
        rest[chosen[-1]] = -np.inf
    return torch.tensor(chosen)


class RegionSampler:
    """Remembers of each region: visits n, last loss L, mean L_bar of the losses before it; and the losses refused.

    Losses are whatever the caller calls one, not negative. With use_regions off it draws uniformly and still counts.
    """

    def __init__(self, count: int, params: CoGradParams) -> None:
        self.params = params
        self.n = torch.zeros(count, dtype=torch.int64)
        self.L_bar = torch.zeros(count, dtype=torch.float64)
        self.L = torch.zeros(count, dtype=torch.float64)
        self.refused = 0  # losses that were not finite
        self._share_memory()

    def indicators(self) -> Tensor:
        """r [N]."""
        return torch.from_numpy(self._r.copy())

    def log_probabilities(self) -> Tensor:
        """log P [N] of the next draw."""
        if not self.params.use_regions:
            return torch.full_like(self.L, 1 / len(self.L)).log()
        return with_visit_floor(log_probabilities(self.indicators(), self.params.tau), self.params.min_visit_share)

    def draw(self, size: int, streams: RandomStreams, log_p: Tensor | None = None) -> Tensor:
        """`size` different regions [B] int64, by `log_probabilities()`. Raises ValueError when there are fewer.

        DECISION: the paper draws one region a step; with B views a step, B different ones are drawn from P.
        """
        count = len(self.n)
        if not 1 <= size <= count:
            raise ValueError(
                f"{counted(size, 'view')} a step from {counted(count, 'region')}; expected 1..{count}, "
                "all different"
            )
        return draw_without_replacement(self.log_probabilities() if log_p is None else log_p, size, streams)

    def observe(self, region: int, loss: float) -> bool:
        """Records one loss; one that is not finite is only counted, and False returned. ValueError below 0."""
        if not math.isfinite(loss):
            self.refused += 1
            return False
        if loss < 0:
            raise ValueError(f"the loss of region {region} is {loss:g}; Eq. (6) compares losses of 0 or more")
        n, L_bar, L = self._arrays
        if n[region] > 0:
            L_bar[region] += (L[region] - L_bar[region]) / n[region]
        L[region] = loss
        n[region] += 1
        self._r[region] = self._indicator(region)
        return True

    def starved_share(self) -> float:
        """Share of the regions with fewer than five visits."""
        return np.count_nonzero(self._arrays[0] < STARVED_BELOW) / len(self.n)

    def state_dict(self) -> dict[str, Any]:
        """All histories."""
        return {"n": self.n.clone(), "L_bar": self.L_bar.clone(), "L": self.L.clone(), "refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; ValueError for another number of regions."""
        if len(state["n"]) != len(self.n):
            raise ValueError(
                f"saved histories are of {counted(len(state['n']), 'region')}, the grid has {len(self.n)}; "
                "keep it"
            )
        self.n, self.L_bar, self.L = (state[name].cpu().clone() for name in ("n", "L_bar", "L"))
        self.refused = state["refused"]
        self._share_memory()

    def _share_memory(self) -> None:
        """The same memory as NumPy arrays, where one number costs a tenth of a tensor's; and r, kept up to date."""
        self._arrays = self.n.numpy(), self.L_bar.numpy(), self.L.numpy()
        self._r = np.array([self._indicator(region) for region in range(len(self.n))])

    def _indicator(self, region: int) -> float:
        n, L_bar, L = (float(x[region]) for x in self._arrays)
        return convergence_indicator(int(n), L_bar, L, self.params.eps_stab)
