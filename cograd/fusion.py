# SPDX-License-Identifier: Apache-2.0
"""Orthogonal gradient fusion, Eq. (10): pure functions of gradients.

| symbol | name |
|---|---|
| g_main | gradient of this view's loss |
| g_hist, w | a neighbour's stored main gradient, and its weight 2^-d |
| g_aux | w g_hist |
| g_proj | what of g_aux is orthogonal to g_main |
| g_fused | g_main + sum of the g_proj |

A gradient is a dict of named tensors that stands for one vector, all tensors end to end; gradients that meet have the
same names and shapes. Inner products are accumulated in float64, results have the type of their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Gradient = dict[str, Tensor]
CHUNK = 1 << 17  # numbers turned into float64 at a time; they stay in a CPU's cache


@dataclass(frozen=True)
class FusionResult:
    """g_fused, and for each candidate the cosine of g_hist with g_main and the norms of g_aux and g_proj.

    main_squares: |g_main|^2 of each named tensor.
    """

    g_fused: Gradient
    main_squares: dict[str, float]
    fused_norm: float
    cosines: tuple[float, ...] = ()
    aux_norms: tuple[float, ...] = ()
    proj_norms: tuple[float, ...] = ()

    @property
    def main_norm(self) -> float:
        """|g_main|."""
        return math.sqrt(sum(self.main_squares.values()))


def inner(a: Gradient, b: Gradient) -> float:
    """<a, b> over all tensors. Raises ValueError when names or shapes differ."""
    _check_alike(a, b)
    return sum(float(_inner(a[name], b[name])) for name in a)


def norm(a: Gradient) -> float:
    """|a| over all tensors."""
    return math.sqrt(inner(a, a))


def project_orthogonal(g_aux: Gradient, g_main: Gradient, delta: float = 1e-8) -> Gradient:
    """Eq. (10): g_proj = g_aux - <g_aux, g_main> / (|g_main|^2 + delta) g_main."""
    denominator = inner(g_main, g_main) + delta
    share = inner(g_aux, g_main) / denominator if denominator else 0.0
    return {name: torch.sub(g_aux[name], g_main[name], alpha=share) for name in g_main}


def project_by_group(g_aux: Gradient, g_main: Gradient, delta: float = 1e-8) -> Gradient:
    """DEVIATION from Eq. (10): each named tensor is a vector of its own (field `projection: group`), since as one
    vector nearly all of |g|^2 is position and colours are hardly projected.

    delta is shared out like |g_main|^2, or it would undo the projection of small groups.
    """
    total = inner(g_main, g_main)
    projected: Gradient = {}
    for name in g_main:
        aux, main = {name: g_aux[name]}, {name: g_main[name]}
        share = inner(main, main) / total if total else 0.0
        projected |= project_orthogonal(aux, main, delta * share)
    return projected


def fuse(
    g_main: Gradient,
    candidates: Sequence[tuple[float, Gradient]],
    delta: float = 1e-8,
    projection: str = "vector",
) -> FusionResult:
    """g_fused = g_main + sum_j g_proj^j of candidates (w_j, g_hist^j). Without any, g_fused is g_main itself, no copy.

    Raises ValueError when names or shapes differ.
    """
    main_squares = {name: float(_inner(g, g)) for name, g in g_main.items()}
    main_norm = math.sqrt(sum(main_squares.values()))
    if not candidates:
        return FusionResult(g_main, main_squares, main_norm)
    project = project_orthogonal if projection == "vector" else project_by_group
    g_fused = {name: g.clone() for name, g in g_main.items()}
    cosines, aux_norms, proj_norms = [], [], []
    for w, g_hist in candidates:
        g_aux = {name: w * g for name, g in g_hist.items()}
        g_proj = project(g_aux, g_main, delta)
        for name, g in g_proj.items():
            g_fused[name] += g
        aux_norms.append(norm(g_aux))
        proj_norms.append(norm(g_proj))
        scale = aux_norms[-1] * main_norm
        cosines.append(inner(g_aux, g_main) / scale if scale else 0.0)
    return FusionResult(g_fused, main_squares, norm(g_fused), tuple(cosines), tuple(aux_norms), tuple(proj_norms))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two tensors in float64, a chunk at a time: no float64 copy of the whole."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in zip(a.reshape(-1).split(CHUNK), b.reshape(-1).split(CHUNK)):
        total += torch.dot(x.double(), y.double())
    return total


def _check_alike(a: Gradient, b: Gradient) -> None:
    shapes, others = ({name: tuple(x.shape) for name, x in g.items()} for g in (a, b))
    if shapes != others:
        raise ValueError(f"gradients of shapes {shapes} and {others} do not fit; pass the same parameters each time")
