# SPDX-License-Identifier: Apache-2.0
"""Past main gradients by region: which may be fused, how they are stored, how their rows move with the Gaussians.

| symbol | name | unit |
|---|---|---|
| k | number of the current step, from 1 | steps |
| t | diffusion timestep that a gradient was made at | timesteps |
| d_ij | L1 distance between regions | level steps |
| g_hist | a region's latest stored main gradient | - |

Letters of shapes: N Gaussians, M after densification, V Gaussians that a view moves.
A gradient is a mapping of tensors: [N, ...] by Gaussian, and of any shape for the names called fixed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from cograd.checks import Rows, checked_rows, rows_of
from cograd.fusion import Flat, Gradient, fits, flat, types_of
from cograd.params import CoGradParams
from cograd.regions import RegionGrid

DENSE_FROM = 0.8  # a tensor with at least this share of non-zero rows is stored whole: an index would cost more
HALF_EXPONENT = 15  # a float16 tensor is stored times the power of two that brings its largest number below 2^15


class RowMap(Protocol):
    """Row k of the new set came from old row source[k]; is_new rows carry no history, and their source is not read."""

    @property
    def source(self) -> Tensor: ...  # [M] integers

    @property
    def is_new(self) -> Tensor: ...  # [M] bool


@dataclass(frozen=True)
class Candidate:
    """A stored gradient that may be fused now; not to be changed in place."""

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
class PlainGradient:
    """A copy of one main gradient. The tensors named in `fixed` are not by Gaussian, the others have `count` rows."""

    step: int
    t: int
    gradient: Flat
    fixed: tuple[str, ...]
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return self.gradient.vector.nbytes

    @classmethod
    def copy(
        cls, gradient: Gradient, step: int, t: int, fixed_names: frozenset[str], device: Any = None
    ) -> Self:
        """A Flat gradient is kept as it is. ValueError for tensors by Gaussian of different length."""
        count = rows_of(gradient, fixed_names)
        copied = flat(gradient if device is None else {name: g.to(device) for name, g in gradient.items()})
        return cls(step, t, copied, tuple(copied.shapes.keys() & fixed_names), count or 0)

    def unpack(self, like: Gradient) -> Gradient:
        """The gradient in the names, types and devices of `like`. ValueError where it is of other parameters."""
        own, others = self.gradient, [like.vector] if isinstance(like, Flat) else like.values()
        if fits(like, own) and types_of(like) == own.types and all(g.device == own.vector.device for g in others):
            return own
        for name, g in like.items():
            if name not in own or (name not in self.fixed and self.count != len(g)):
                raise _misfit(self.count, own, name, g)
        return {name: own[name].to(g.device, g.dtype) for name, g in like.items()}

    def remap_rows(self, rows: Rows) -> None:
        """Moves every row with its Gaussian: pruned rows are removed, new rows are zero."""
        old, device = self.gradient, self.gradient.vector.device
        source, new_rows = rows.source.to(device), rows.is_new.to(device).nonzero().squeeze(1)
        count = len(source)
        shapes = {name: g if name in self.fixed else (count, *g[1:]) for name, g in old.shapes.items()}
        moved = Flat(old.vector.new_empty(sum(map(math.prod, shapes.values()))), shapes, old.types)
        for name, g in moved.views.items():
            if name in self.fixed:
                g.copy_(old.views[name])
            elif g.numel():
                torch.index_select(old.views[name], 0, source, out=g).index_fill_(0, new_rows, 0)
        self.gradient, self.count = moved, count

    def state_dict(self) -> dict[str, Any]:
        """Everything, as nested dictionaries."""
        return {**vars(self), "gradient": dict(self.gradient), "fixed": list(self.fixed)}


@dataclass
class PackedGradient:
    """One main gradient in few bytes. `rows` [V] int32 are the Gaussians with a non-zero value in a `sparse` tensor."""

    step: int
    t: int
    count: int  # N
    rows: Tensor
    sparse: dict[str, Tensor] = field(default_factory=dict)  # [V, ...]
    dense: dict[str, Tensor] = field(default_factory=dict)  # [N, ...]
    fixed: dict[str, Tensor] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)  # stored number = scale x true one

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        tensors = (self.rows, *self.sparse.values(), *self.dense.values(), *self.fixed.values())
        return sum(x.nbytes for x in tensors)

    @classmethod
    def pack(cls, plain: PlainGradient, dtype: torch.dtype) -> Self:
        """Rows that are zero are left out; numbers are of `dtype`, float16 ones scaled to the tensor's largest."""
        moved = {name: g for name, g in plain.gradient.items() if name not in plain.fixed}
        touched = {name: (g != 0).reshape(len(g), math.prod(g.shape[1:])).any(dim=1) for name, g in moved.items()}
        whole = {name for name, rows in touched.items() if int(rows.sum()) >= DENSE_FROM * len(rows)}
        some = [rows for name, rows in touched.items() if name not in whole]
        nothing = torch.zeros((1, 0), dtype=torch.bool, device=plain.gradient.vector.device)
        rows = torch.stack(some or list(nothing)).any(dim=0).nonzero().squeeze(1)
        entry = cls(plain.step, plain.t, plain.count, rows.to(torch.int32))
        for name, g in plain.gradient.items():
            scale = entry.scale[name] = _half_scale(g) if dtype == torch.float16 else 1.0
            place = entry.fixed if name not in moved else entry.dense if name in whole else entry.sparse
            place[name] = ((g[rows] if place is entry.sparse else g).float() * scale).to(dtype)
        return entry

    def unpack(self, like: Gradient) -> Gradient:
        """The gradient in the names, types and devices of `like`. ValueError where it is of other parameters."""
        gradient = {}
        for name, g in like.items():
            values = next((part[name] for part in (self.sparse, self.dense, self.fixed) if name in part), None)
            if values is None or (name not in self.fixed and self.count != len(g)):
                raise _misfit(self.count, self.scale, name, g)
            values = values.to(g.device, g.dtype) * (1 / self.scale[name])  # a power of two
            if name in self.sparse:
                values = torch.zeros_like(g).index_copy_(0, self.rows.to(g.device, torch.int64), values)
            gradient[name] = values
        return gradient

    def remap_rows(self, rows: Rows) -> None:
        """Moves every row with its Gaussian: pruned rows are removed, new rows are zero."""
        source, is_new = rows.source.to(self.rows.device), rows.is_new.to(self.rows.device)
        place = torch.full((self.count,), -1, dtype=torch.int64, device=source.device)  # of a Gaussian in `rows`
        place[self.rows.long()] = torch.arange(len(self.rows), device=source.device)
        place = torch.where(is_new, -1, place[source])  # [M]
        self.rows = (place >= 0).nonzero().squeeze(1).to(torch.int32)
        kept = place[place >= 0]
        self.sparse = {name: x[kept] for name, x in self.sparse.items()}
        self.dense = {name: x[source] * ~is_new.view(-1, *[1] * (x.dim() - 1)) for name, x in self.dense.items()}
        self.count = len(source)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as nested dictionaries."""
        return dict(vars(self))


class GradientBank:
    """Remembers the latest main gradient of each region with its step and timestep, as long as it may be fused.

    Bound: at most one gradient a region, and at most bank_limit_mb in all, one more while it is stored. Beyond it
    gradients are packed, then dropped and counted in `evicted`, the oldest first. Gradients that are not finite are
    not stored, and counted in `refused`.
    """

    def __init__(
        self,
        grid: RegionGrid,
        params: CoGradParams,
        total_steps: int,
        fixed_names: frozenset[str] = frozenset({"background"}),
    ) -> None:
        self.grid, self.params, self.fixed_names = grid, params, fixed_names
        self.total_steps, self.limit_bytes = total_steps, params.bank_limit_mb * 10**6
        self.first_step = math.ceil(params.fusion_range[0] * total_steps - 1e-6)  # 0.2 x 15 is a little more than 3
        self.entries: dict[int, PlainGradient | PackedGradient] = {}
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
        for j, d in self.grid.neighbours[region]:
            entry = self.entries.get(j)
            if entry is None or (j == region and not self.params.own_region_is_candidate):
                continue
            if self.is_eligible(step, t, entry.step, entry.t):
                found.append(Candidate(j, d, entry.step, entry.t, entry.unpack(like)))
        return found

    def is_useful(self, step: int) -> bool:
        """Whether a gradient of `step` can be fused at some later step."""
        return step >= self._first_useful(step)

    def is_eligible(self, step: int, t: int, stored_step: int, stored_t: int) -> bool:
        """Steps differ by less than max_step_share of the current one, timesteps by less than max_t_difference.

        DECISION: "less than 10% of the current total optimization steps" is read as 10% of the steps made so far.
        """
        young = (step - stored_step) / step < self.params.max_step_share
        return young and abs(t - stored_t) < self.params.max_t_difference

    def check(self, *gradients: Gradient) -> None:
        """ValueError unless each is a gradient by name, of as many Gaussians as the others and those stored."""
        known = next((entry.count for entry in self.entries.values()), 0)
        for g_main in gradients:
            count = rows_of(g_main, self.fixed_names)
            if count is not None and known and count != known:
                raise ValueError(
                    f"a gradient has {count} rows; expected {known}, as gradients have that were passed before: call "
                    "remap_rows(index_map) after each densification"
                )
            known = known or count or 0

    def store(self, step: int, region: int, t: int, g_main: Gradient) -> None:
        """Keeps a copy of g_main as the region's latest, if a later step can fuse it.

        DECISION: the paper stores "the original, unfused main gradient in the history" and names no length of it; only
        the latest gradient of each region is kept.

        DECISION: gradients stay as they are while they fit the bound. One that is packed is rounded to float16, scaled
        to its largest number, unless bank_precision is float32: 180 gradients of 300k Gaussians take 1.5 GB, not 3.
        """
        if not self.is_useful(step):
            return
        g_main = flat(g_main)
        if not g_main.is_finite and not _all_finite(g_main.vector):
            self.refused += 1
            return
        device = "cpu" if self.params.bank_on_cpu else None
        self.entries[region] = entry = PlainGradient.copy(g_main, step, t, self.fixed_names, device)
        if len(self) * entry.nbytes > self.limit_bytes:  # no entry is larger: one that is packed is smaller
            self._shrink()

    def remap_rows(self, index_map: RowMap) -> None:
        """Moves every stored gradient by the map of a densification. ValueError, with none moved, for another set's.

        DECISION: the paper is silent on densification, which changes the parameters that a stored gradient is of. The
        gradient follows its Gaussians: rows of pruned ones are removed, rows of new ones are zero.
        """
        count = next((entry.count for entry in self.entries.values()), None)
        rows = checked_rows(getattr(index_map, "source", None), getattr(index_map, "is_new", None), count)
        if count == 0 and len(rows.source):
            self.entries.clear()  # of no rows: they say nothing about new ones
        for entry in self.entries.values():
            entry.remap_rows(rows)
        self._shrink()

    def drop_expired(self, step: int) -> None:
        """Forgets every gradient that no step after `step` can fuse."""
        first_useful = self._first_useful(step)
        self.entries = {i: entry for i, entry in self.entries.items() if entry.step >= first_useful}

    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def _shrink(self) -> None:
        """Down to the bound, beginning with the oldest; nothing to do within it."""
        if (excess := self.nbytes() - self.limit_bytes) <= 0:
            return
        dtype = torch.float16 if self.params.bank_precision == "float16" else torch.float32
        oldest_first = sorted(self.entries, key=lambda i: (self.entries[i].step, i))
        for region in oldest_first:
            if excess > 0 and isinstance(entry := self.entries[region], PlainGradient):
                self.entries[region] = packed = PackedGradient.pack(entry, dtype)
                excess += packed.nbytes - entry.nbytes
        for region in oldest_first:
            if excess > 0:
                excess -= self.entries.pop(region).nbytes
                self.evicted += 1

    def state_dict(self) -> dict[str, Any]:
        """All stored gradients as they are stored."""
        entries = {str(i): entry.state_dict() for i, entry in self.entries.items()}
        return {"entries": entries, "evicted": self.evicted, "refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken, within the bound as it is now."""
        self.entries = {int(i): _stored(entry) for i, entry in state["entries"].items()}
        self.evicted, self.refused = state["evicted"], state["refused"]
        self._shrink()

    def _first_useful(self, now: int) -> float:
        """The earliest step whose gradients some step after `now` can fuse; their age only grows with the step."""
        soonest = max(now + 1, self.first_step)
        if not self.is_active(soonest):
            return math.inf
        oldest = math.floor(soonest * (1 - self.params.max_step_share)) - 1  # a step or two too early: looked at next
        share = self.params.max_step_share
        return next((k for k in range(oldest, soonest) if (soonest - k) / soonest < share), math.inf)


def _all_finite(x: Tensor) -> bool:
    """By the sum, which is ten times faster, unless that overflows."""
    return math.isfinite(float(x.sum())) or bool(x.isfinite().all())


def _misfit(count: int, names: Iterable[str], name: str, g: Tensor) -> ValueError:
    return ValueError(
        f"{name} is {tuple(g.shape)}; expected one of {sorted(names)} with {count} rows, as in the bank: "
        "call remap_rows(index_map) after each densification and keep the names"
    )


def _stored(state: dict[str, Any]) -> PlainGradient | PackedGradient:
    if "gradient" not in state:
        return PackedGradient(**state)
    return PlainGradient(**{**state, "gradient": flat(state["gradient"]), "fixed": tuple(state["fixed"])})


def _half_scale(g: Tensor) -> float:
    """The power of two that fits a tensor into float16; the exponent stays within float32's."""
    top = float(g.abs().max()) if g.numel() else 0.0
    return 2.0 ** min(HALF_EXPONENT - math.frexp(top)[1], 126)
