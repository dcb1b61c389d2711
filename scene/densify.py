# SPDX-License-Identifier: Apache-2.0
"""Clone, split, prune and opacity reset; each returns the index map of what moved where.

N Gaussians before, M after a change. Everything indexed by Gaussian (parameters, optimizer state, statistics, and
whatever a caller keeps) follows one IndexMap. The rules and their order are those of 3D Gaussian Splatting, as
LucidDreamer uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from utils.general_utils import build_rotation, inverse_sigmoid
from utils.random_streams import RandomStreams

if TYPE_CHECKING:
    from scene.gaussian_model import GaussianModel

SPLIT_CHILDREN = 2
SPLIT_SHRINK = 0.8 * SPLIT_CHILDREN  # a child's scale is its parent's divided by this
RESET_OPACITY = 0.01
WORLD_SIZE_LIMIT = 0.1  # of the extent; larger Gaussians are pruned once a screen limit is set


@dataclass(frozen=True)
class IndexMap:
    """Row k of the new set came from old row source[k]; rows with is_new carry no history (zero optimizer state)."""

    source: torch.Tensor  # [M] int64
    is_new: torch.Tensor  # [M] bool

    @classmethod
    def identity(cls, count: int, device: torch.device | str = "cpu") -> IndexMap:
        """Nothing moved."""
        return cls(torch.arange(count, device=device), torch.zeros(count, dtype=torch.bool, device=device))

    @classmethod
    def appended(cls, count: int, parents: torch.Tensor) -> IndexMap:
        """All old rows, then one new row for each of `parents` [P] int64."""
        old = cls.identity(count, parents.device)
        new = torch.ones_like(parents, dtype=torch.bool)
        return cls(torch.cat([old.source, parents]), torch.cat([old.is_new, new]))

    @classmethod
    def kept(cls, keep: torch.Tensor) -> IndexMap:
        """Only the rows where `keep` [N] bool holds, in their order."""
        source = keep.nonzero().squeeze(1)
        return cls(source, torch.zeros_like(source, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.source)

    def carry(self, x: torch.Tensor) -> torch.Tensor:
        """History x [N, ...] of the old set as that of the new one [M, ...]; zeros for new rows."""
        moved = x[self.source]
        moved[self.is_new] = 0
        return moved

    def inherit(self, x: torch.Tensor) -> torch.Tensor:
        """Values x [N, ...] of the old set as [M, ...]; a new row takes its parent's."""
        return x[self.source]

    def then(self, other: IndexMap) -> IndexMap:
        """This map followed by `other`, as one."""
        return IndexMap(self.source[other.source], self.is_new[other.source] | other.is_new)


def densify_and_clone(model: GaussianModel, grad_norm: torch.Tensor, max_grad: float, extent: float) -> IndexMap:
    """Append a copy of every small Gaussian whose mean screen-space gradient `grad_norm` [N] reaches `max_grad`."""
    small = model.get_scaling.amax(dim=1) <= model.percent_dense * extent
    parents = ((grad_norm >= max_grad) & small).nonzero().squeeze(1)
    index_map = IndexMap.appended(len(grad_norm), parents)
    model.apply_index_map(index_map)
    return index_map


def densify_and_split(
    model: GaussianModel, grad_norm: torch.Tensor, max_grad: float, extent: float, streams: RandomStreams
) -> IndexMap:
    """Replace every large Gaussian with a high gradient by two smaller ones sampled from it."""
    scales = model.get_scaling
    large = scales.amax(dim=1) > model.percent_dense * extent
    selected = (grad_norm >= max_grad) & large
    parents = selected.nonzero().squeeze(1).repeat(SPLIT_CHILDREN)
    deviation = scales[parents]
    offset = torch.normal(torch.zeros_like(deviation), deviation, generator=streams.torch)
    offset = (build_rotation(model.get_raw_rotation[parents]) @ offset.unsqueeze(-1)).squeeze(-1)
    children = {"xyz": model.get_xyz[parents] + offset, "scaling": torch.log(deviation / SPLIT_SHRINK)}
    added = IndexMap.appended(len(grad_norm), parents)
    removed = IndexMap.kept(torch.cat([~selected, torch.ones_like(parents, dtype=torch.bool)]))
    index_map = added.then(removed)
    model.apply_index_map(index_map, children)
    return index_map


def prune(model: GaussianModel, mask: torch.Tensor) -> IndexMap:
    """Remove the Gaussians where `mask` [N] bool holds; all of them may go."""
    index_map = IndexMap.kept(~mask)
    model.apply_index_map(index_map)
    return index_map


def moment_ratio(model: GaussianModel) -> torch.Tensor:
    """How much the latest gradients of each position agree [N]: 1 for one direction, about 0.23 for noise.

    The length of Adam's first moment over the root of the second, ||m|| / sqrt(sum of v), both without their bias for
    the steps since the Gaussian was added; 0 without a gradient. With beta1 = 0.9, independent gradients of mean 0
    give a mean square of (1 - beta1) / (1 + beta1) = 0.23^2.
    """
    n = len(model.get_xyz)
    state = model.optimizer.state.get(model.get_xyz) if model.optimizer else None
    if not state:
        return torch.zeros(n, device=model.device)
    assert model.optimizer is not None
    (beta1, beta2), steps = model.optimizer.param_groups[0]["betas"], model.steps_since_added.double()
    m = state["exp_avg"].double() / (1 - beta1**steps)
    v = state["exp_avg_sq"].double() / (1 - beta2**steps)
    ratio = torch.linalg.vector_norm(m, dim=1) / v.sum(dim=1).sqrt()
    return torch.nan_to_num(ratio, nan=0.0).float()


def within_budget(grad_norm: torch.Tensor, room: int) -> torch.Tensor:
    """grad_norm [N] of the `room` Gaussians where it is largest, -inf for the others, which are not densified.

    Each densified Gaussian is one more, cloned or split. Of equal ones the first are taken.
    """
    kept = torch.argsort(grad_norm, descending=True, stable=True)[: max(room, 0)]
    limited = torch.full_like(grad_norm, -torch.inf)
    limited[kept] = grad_norm[kept]
    return limited


def densify_and_prune(
    model: GaussianModel,
    max_grad: float,
    min_opacity: float,
    extent: float,
    max_screen_size: float | None,
    streams: RandomStreams,
    max_points: int | None = None,
    least_ratio: float = 0.0,
) -> IndexMap:
    """Clone, split, prune, in this order; statistics restart at 0.

    max_points: no more Gaussians than these are made; None: no limit. least_ratio: Gaussians of a smaller
    `moment_ratio` are not cloned or split.
    Kept from upstream: cloning and splitting clear max_radii2D before pruning reads it, so that of the two limits that
    `max_screen_size` switches on only the world-size one (0.1 of the extent) ever removes anything.
    """
    grad_norm = torch.nan_to_num(model.xyz_gradient_accum / model.denom, nan=0.0).squeeze(1)
    if least_ratio > 0:
        grad_norm = torch.where(moment_ratio(model) >= least_ratio, grad_norm, -torch.inf)
    if max_points is not None:
        grad_norm = within_budget(grad_norm, max_points - len(grad_norm))
    cloned = densify_and_clone(model, grad_norm, max_grad, extent)
    grad_norm = cloned.carry(grad_norm)  # fresh copies have no gradient
    split = densify_and_split(model, grad_norm, max_grad, extent, streams)
    model.reset_statistics()
    mask = model.get_opacity.squeeze(1) < min_opacity
    if max_screen_size:
        mask |= model.max_radii2D > max_screen_size
        mask |= model.get_scaling.amax(dim=1) > WORLD_SIZE_LIMIT * extent
    return cloned.then(split).then(prune(model, mask))


def reset_opacity(model: GaussianModel) -> IndexMap:
    """Lower every opacity to at most 0.01 and zero its optimizer state. Nothing moves."""
    model.replace_parameter("opacity", inverse_sigmoid(model.get_opacity.clamp(max=RESET_OPACITY)))
    return IndexMap.identity(len(model.get_xyz), model.get_xyz.device)
