# SPDX-License-Identifier: Apache-2.0
"""Past main gradients by region: which may be fused, how they are stored, how they follow their Gaussians.

| symbol | name | unit |
|---|---|---|
| k | number of the current step, from 1 | steps |
| t | diffusion timestep that a gradient was made at | timesteps |
| d_ij | L1 distance between regions | level steps |
| g_hist | a region's latest stored main gradient | - |

Letters of shapes: N Gaussians, M after densification, V Gaussians that a view moves.
A gradient is a dict of tensors: [N, ...] by Gaussian, and of any shape for the names called fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from arguments import CoGradParams
from cograd.fusion import Gradient
from cograd.regions import RegionGrid

DENSE_FROM = 0.8  # a tensor with at least this share of non-zero rows is stored whole: an index would cost more
HALF_EXPONENT = 15  # a float16 tensor is stored times the power of two that brings its largest number below 2^15


class IndexMap(Protocol):
    """Row k of the new set came from old row source[k]; is_new rows carry no history (scene.densify.IndexMap)."""

    @property
    def source(self) -> Tensor: ...  # [M] int64

    @property
    def is_new(self) -> Tensor: ...  # [M] bool


@dataclass(frozen=True)
class Candidate:
    """A stored gradient that may be fused now."""

    region: int
    d: int
    step: int
    t: int
    g_hist: Gradient

    @property
    def w(self) -> float:
        """w_ij = 2^-d_ij."""
        return 2.0**-self.d


@dataclass
class StoredGradient:
    """One main gradient in storage. `rows` [V] int32 are the Gaussians with a non-zero value in a `sparse` tensor."""

    step: int
    t: int
    count: int  # N
    rows: Tensor
    sparse: Gradient = field(default_factory=dict)  # [V, ...]
    dense: Gradient = field(default_factory=dict)  # [N, ...]
    fixed: Gradient = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)  # stored number = scale x true one

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        tensors = (self.rows, *self.sparse.values(), *self.dense.values(), *self.fixed.values())
        return sum(x.numel() * x.element_size() for x in tensors)

    @classmethod
    def pack(
        cls, gradient: Gradient, step: int, t: int, fixed_names: frozenset[str], dtype: torch.dtype, device: Any = None
    ) -> StoredGradient | None:
        """A copy of `gradient` in storage; None where it is not finite. ValueError for tensors of different length."""
        moved = {name: g.detach() for name, g in gradient.items() if name not in fixed_names}
        counts = {name: len(g) for name, g in moved.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"gradients by Gaussian have lengths {counts}; expected one length, or names called fixed")
        top = {name: _largest(g) for name, g in gradient.items()}
        if not all(math.isfinite(value) for value in top.values()):
            return None
        touched = {name: (g != 0).reshape(len(g), math.prod(g.shape[1:])).any(dim=1) for name, g in moved.items()}
        whole = {name for name, rows in touched.items() if int(rows.sum()) >= DENSE_FROM * len(rows)}
        some = [rows for name, rows in touched.items() if name not in whole]
        rows = torch.stack(some).any(dim=0).nonzero().squeeze(1) if some else torch.zeros(0, dtype=torch.int64)
        entry = cls(step, t, next(iter(counts.values()), 0), rows.to(device or rows.device, torch.int32))
        for name, g in gradient.items():
            entry.scale[name] = _half_scale(top[name]) if dtype == torch.float16 else 1.0
            place = entry.fixed if name not in moved else entry.dense if name in whole else entry.sparse
            values = g.detach()[rows] if place is entry.sparse else g.detach()
            place[name] = _stored(values, entry.scale[name], dtype, device)
        return entry

    def unpack(self, like: Gradient) -> Gradient:
        """The gradient in the names, types and devices of `like`. ValueError where it is of other parameters."""
        gradient = {}
        for name, g in like.items():
            values = next((part[name] for part in (self.sparse, self.dense, self.fixed) if name in part), None)
            if values is None or (name not in self.fixed and self.count != len(g)):
                raise ValueError(
                    f"the bank holds gradients of {self.count} Gaussians and names {sorted(self.scale)}, not of "
                    f"{name} {tuple(g.shape)}; call follow(index_map) after each densification and keep the names"
                )
            values = values.to(g.device, g.dtype) * (1 / self.scale[name])  # a power of two
            if name in self.sparse:
                values = torch.zeros_like(g).index_copy_(0, self.rows.to(g.device, torch.int64), values)
            gradient[name] = values
        return gradient

    def follow(self, index_map: IndexMap) -> None:
        """Moves every row with its Gaussian: pruned rows go, new rows are zero."""
        source, is_new = index_map.source.to(self.rows.device), index_map.is_new.to(self.rows.device)
        place = torch.full((self.count,), -1, dtype=torch.int64, device=source.device)  # of a Gaussian in `rows`
        place[self.rows.long()] = torch.arange(len(self.rows), device=source.device)
        place = torch.where(is_new, -1, place[source])  # [M]
        self.rows = (place >= 0).nonzero().squeeze(1).to(torch.int32)
        kept = place[place >= 0]
        self.sparse = {name: x[kept] for name, x in self.sparse.items()}
        self.dense = {name: x[source] * ~is_new.view(-1, *[1] * (x.dim() - 1)) for name, x in self.dense.items()}
        self.count = len(source)


class GradientBank:
    """Remembers the latest main gradient of each region with its step and timestep, as long as it may be fused.

    Bound: at most one gradient a region, and at most bank_limit_mb in all: beyond it the oldest go first, and are
    counted in `evicted`. Gradients that are not finite are not stored, and counted in `refused`.
    """

    def __init__(
        self,
        grid: RegionGrid,
        params: CoGradParams,
        total_steps: int,
        fixed_names: frozenset[str] = frozenset({"background"}),
    ) -> None:
        self.grid, self.params, self.fixed_names = grid, params, fixed_names
        self.total_steps = total_steps
        self.first_step = math.ceil(params.fusion_range[0] * total_steps - 1e-6)  # 0.2 x 15 is a little more than 3
        self.entries: dict[int, StoredGradient] = {}
        self._nbytes = 0
        self.evicted = self.refused = 0

    def __len__(self) -> int:
        return len(self.entries)

    def is_active(self, step: int) -> bool:
        """Whether gradients are fused at `step`."""
        first, last = self.params.fusion_range
        return self.params.use_fusion and first <= step / self.total_steps <= last

    def candidates(self, step: int, region: int, t: int, like: Gradient) -> list[Candidate]:
        """Gradients to fuse for a view in `region` at timestep t, nearest region first.

        DECISION: "regions with an L1 norm distance less than 2" includes the region itself, whose own last gradient is
        a candidate (field `own_region_is_candidate`).
        """
        if not self.is_active(step):
            return []
        found = []
        for j, d in self.grid.neighbours_of(region):
            entry = self.entries.get(j)
            if entry is None or (j == region and not self.params.own_region_is_candidate):
                continue
            if self.is_eligible(step, t, entry.step, entry.t):
                found.append(Candidate(j, d, entry.step, entry.t, entry.unpack(like)))
        return found

    def is_eligible(self, step: int, t: int, stored_step: int, stored_t: int) -> bool:
        """Steps differ by less than max_step_share of the current one, timesteps by less than max_t_difference."""
        young = (step - stored_step) / step < self.params.max_step_share
        return young and abs(t - stored_t) < self.params.max_t_difference

    def store(self, step: int, region: int, t: int, g_main: Gradient) -> None:
        """Keeps a copy of g_main as the region's latest; drops what can be fused no more.

        DECISION: a stored gradient is rounded to float16, scaled to its largest number, unless bank_precision is
        float32: 180 gradients of 300k Gaussians take 1.5 GB instead of 3.
        """
        self.drop_expired(step)
        if not self._can_qualify(step, now=step):
            return
        dtype = torch.float16 if self.params.bank_precision == "float16" else torch.float32
        device = "cpu" if self.params.bank_on_cpu else None
        entry = StoredGradient.pack(g_main, step, t, self.fixed_names, dtype, device)
        if entry is None:
            self.refused += 1
            return
        if region in self.entries:
            self._forget(region)
        self.entries[region] = entry
        self._nbytes += entry.nbytes
        while self.nbytes() > self.params.bank_limit_mb * 10**6:
            self._forget(min(self.entries, key=lambda i: (self.entries[i].step, i)))
            self.evicted += 1

    def follow(self, index_map: IndexMap) -> None:
        """Moves every stored gradient by the map of a densification. ValueError for a map of another set."""
        if not len(self):
            return
        count = next(iter(self.entries.values())).count
        if len(index_map.source) and int(index_map.source.max()) >= count:
            raise ValueError(f"the index map reads row {int(index_map.source.max())}, the bank holds {count} Gaussians")
        for entry in self.entries.values():
            entry.follow(index_map)
        self._count_bytes()

    def drop_expired(self, step: int) -> None:
        """Forgets every gradient that no step after `step` can fuse."""
        for region in [i for i, entry in self.entries.items() if not self._can_qualify(entry.step, step)]:
            self._forget(region)

    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return self._nbytes

    def _forget(self, region: int) -> None:
        self._nbytes -= self.entries.pop(region).nbytes

    def _count_bytes(self) -> None:
        self._nbytes = sum(entry.nbytes for entry in self.entries.values())

    def state_dict(self) -> dict[str, Any]:
        """All stored gradients as they are stored."""
        entries = {str(i): dict(vars(entry)) for i, entry in self.entries.items()}
        return {"entries": entries, "evicted": self.evicted, "refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self.entries = {int(i): StoredGradient(**entry) for i, entry in state["entries"].items()}
        self.evicted, self.refused = state["evicted"], state["refused"]
        self._count_bytes()

    def _can_qualify(self, stored_step: int, now: int) -> bool:
        """Whether some step after `now` could fuse a gradient of `stored_step`: its age only grows with the step."""
        soonest = max(now + 1, self.first_step)
        return self.is_active(soonest) and (soonest - stored_step) / soonest < self.params.max_step_share


def _largest(g: Tensor) -> float:
    """The largest absolute number; NaN or inf where there is one; 0 of nothing."""
    return float(g.detach().abs().max()) if g.numel() else 0.0


def _stored(values: Tensor, scale: float, dtype: torch.dtype, device: Any) -> Tensor:
    """A copy in storage."""
    return (values.float() * scale).to(device or values.device, dtype)


def _half_scale(top: float) -> float:
    """The power of two for a tensor whose largest number is `top`; the exponent stays within float32's."""
    return 2.0 ** min(HALF_EXPONENT - math.frexp(top)[1], 126)
