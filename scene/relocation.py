# SPDX-License-Identifier: Apache-2.0
"""3DGS-MCMC: dead Gaussians become copies of live ones, the set grows to a budget, noise on the positions explores.

Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", 2024. N Gaussians, M after a change, P of them
new or copied. Nothing is cloned, split or pruned, and no opacity is reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scene.densify import IndexMap
from utils.general_utils import build_rotation, inverse_sigmoid
from utils.random_streams import RandomStreams

if TYPE_CHECKING:
    from scene.gaussian_model import GaussianModel

DEAD_OPACITY = 0.005
GROWTH_PERCENT = 5
MOST_COPIES = 51  # of one Gaussian that the formula counts; in its alternating sum digits are lost beyond
NOISE_SHARPNESS = 100.0  # k of the noise's sigmoid
WEIGHT_UNIT = 2**24  # opacities as whole numbers, whose sums do not depend on the order in which a device adds


def shared_shape(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Equation (9) of 3DGS-MCMC: opacity and shrinkage of N copies in one place that look like the one Gaussian.

    o_new = 1 - (1 - o)^(1/N); the standard deviations are multiplied by o over the sum, i = 1..N and k = 0..i-1, of
    C(i-1, k) (-1)^k o_new^(k+1) / sqrt(k+1). As C(0, k) + .. + C(N-1, k) = C(N, k+1), that is one sum over j = k+1.

    opacity [P] in (0, 1), copies [P] int64 >= 1. Returns the opacity [P] and the factor on the scales [P], float64.
    """
    o = opacity.double().clamp(max=1 - 1e-7)
    n = copies.clamp(max=MOST_COPIES).double()
    new = -torch.expm1(torch.log1p(-o) / n)
    term, total = torch.ones_like(o), torch.zeros_like(o)
    for j in range(1, MOST_COPIES + 1):
        term = term * new * (n - (j - 1)) / j  # C(N, j) o_new^j, 0 beyond N
        total = total + (-1) ** (j - 1) * term / j**0.5
    return new, o / total


def draw_by_opacity(opacity: Tensor, is_alive: Tensor, count: int, streams: RandomStreams) -> Tensor:
    """Rows [count] of live Gaussians, each with a probability proportional to its opacity; one may come repeatedly.

    opacity [N] in [0, 1], is_alive [N] bool, at least one of them true.
    """
    ends = torch.cumsum(torch.where(is_alive, (opacity * WEIGHT_UNIT).long(), 0), dim=0)
    places = torch.randint(int(ends[-1]), (count,), generator=streams.torch, device=ends.device)
    return torch.searchsorted(ends, places, right=True)


def _copied(model: GaussianModel, source: Tensor, drawn: Tensor) -> IndexMap:
    """Makes row k of the model a copy of row source[k], where `drawn` names the rows that were copied.

    DECISION: copies and the Gaussian that they are copies of carry no history: their optimizer state and their rows of
    the bank's gradients are zero, for these belong to another opacity and scale.

    DECISION: a copy's opacity is at least that of a live Gaussian, or it would be relocated again.
    """
    copies = torch.bincount(drawn, minlength=len(model.get_xyz)) + 1
    is_new = copies[source] > 1
    rows = source[is_new]
    opacity, shrink = shared_shape(model.get_opacity[rows, 0], copies[rows])
    scales = model.get_scaling[rows] * shrink.float()[:, None]
    new_values = {
        "opacity": inverse_sigmoid(opacity.clamp(min=DEAD_OPACITY)).float()[:, None],
        "scaling": torch.log(scales),
    }
    index_map = IndexMap(source, is_new)
    model.apply_index_map(index_map, new_values)
    return index_map


def relocate(model: GaussianModel, streams: RandomStreams) -> IndexMap:
    """Every Gaussian whose opacity is at most DEAD_OPACITY becomes a copy of a live one, drawn by opacity."""
    n, opacity = len(model.get_xyz), model.get_opacity[:, 0]
    is_alive = opacity > DEAD_OPACITY
    dead = (~is_alive).nonzero().squeeze(1)
    if len(dead) == n:
        return IndexMap.identity(n, opacity.device)
    source, drawn = torch.arange(n, device=opacity.device), draw_by_opacity(opacity, is_alive, len(dead), streams)
    source[dead] = drawn
    return _copied(model, source, drawn)


def grow(model: GaussianModel, max_points: int, streams: RandomStreams) -> IndexMap:
    """Adds copies of Gaussians drawn by opacity: 5 % of those there are, up to `max_points` in all."""
    n, opacity = len(model.get_xyz), model.get_opacity[:, 0]
    is_alive = opacity > DEAD_OPACITY
    count = min(-(-n * GROWTH_PERCENT // 100), max_points - n)
    if count <= 0 or not bool(is_alive.any()):
        return IndexMap.identity(n, opacity.device)
    drawn = draw_by_opacity(opacity, is_alive, count, streams)
    return _copied(model, IndexMap.appended(n, drawn).source, drawn)


@torch.no_grad()
def relocate_and_grow(model: GaussianModel, max_points: int, streams: RandomStreams) -> IndexMap:
    """What 3DGS-MCMC does at each densification. Parameters are replaced, so their gradients are gone."""
    return relocate(model, streams).then(grow(model, max_points, streams))


@torch.no_grad()
def add_position_noise(model: GaussianModel, rate: float, weight: float, streams: RandomStreams) -> None:
    """Positions += rate weight sigmoid(-k (o - t)) Sigma eta, with eta standard normal, k = 100, t = 0.005.

    rate: the positions' learning rate; weight: 5e5 in the paper. Opaque Gaussians stay where they are.
    """
    gate = torch.sigmoid(-NOISE_SHARPNESS * (model.get_opacity - DEAD_OPACITY))
    rotation = build_rotation(model.get_raw_rotation)
    eta = streams.randn(len(gate), 3)[:, :, None]
    step = rotation @ (model.get_scaling[:, :, None] ** 2 * (rotation.mT @ eta))
    model.get_xyz.add_(rate * weight * gate * step[:, :, 0])


@torch.no_grad()
def add_opacity_term(model: GaussianModel, weight: float) -> None:
    """Adds the gradient of weight * mean(opacity) to that of the opacity logits, where there is one."""
    logits = model.parameters_in_order()["opacity"]
    if logits.grad is not None:
        opacity = model.get_opacity
        logits.grad += weight / len(opacity) * opacity * (1 - opacity)
