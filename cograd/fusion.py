# SPDX-License-Identifier: Apache-2.0
"""Orthogonal gradient fusion, Eq. (10): pure functions of gradients.

| symbol | name |
|---|---|
| g_main | gradient of this view's loss |
| g_hist, w | a neighbour's stored main gradient, and its weight 2^-d |
| g_aux | w g_hist |
| g_proj | what of g_aux is orthogonal to g_main |
| g_fused | g_main + sum of the g_proj |
| share | <g_aux, g_main> / (abs(g_main)^2 + delta) |

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
    """g_fused; |g_main|^2 of each named tensor; |g_fused|; for each candidate the cosine of g_hist with g_main."""

    g_fused: Gradient
    main_squares: dict[str, float]
    fused_norm: float
    cosines: tuple[float, ...] = ()

    @property
    def main_norm(self) -> float:
        """|g_main|."""
        return math.sqrt(sum(self.main_squares.values()))


def products(a: Gradient, b: Gradient) -> dict[str, float]:
    """<a, b> of each named tensor; their sum is that of the vectors. ValueError when names or shapes differ."""
    shapes, others = ({name: tuple(x.shape) for name, x in g.items()} for g in (a, b))
    if shapes != others:
        raise ValueError(f"gradients of shapes {shapes} and {others} do not fit; pass the same parameters each time")
    return {name: _dot(a[name], b[name]) for name in a}


def inner(a: Gradient, b: Gradient) -> float:
    """<a, b> over all tensors."""
    return sum(products(a, b).values())


def norm(a: Gradient) -> float:
    """|a| over all tensors."""
    return math.sqrt(inner(a, a))


def vector_shares(aux_main: dict[str, float], main_main: dict[str, float], delta: float) -> dict[str, float]:
    """<g_aux, g_main> / (|g_main|^2 + delta) of the whole vector, for each name; 0 where there is no g_main."""
    denominator = sum(main_main.values()) + delta
    return dict.fromkeys(main_main, sum(aux_main.values()) / denominator if denominator else 0.0)


def group_shares(aux_main: dict[str, float], main_main: dict[str, float], delta: float) -> dict[str, float]:
    """DEVIATION from Eq. (10): each named tensor is a vector of its own (field `projection: group`), since as one
    vector nearly all of the squared norm is position, and colours are hardly projected.

    delta is shared out like |g_main|^2, or it would undo the projection of small groups.
    """
    square = sum(main_main.values())
    return {
        name: aux_main[name] / (own * (1 + delta / square)) if own else 0.0  # own + delta own / square
        for name, own in main_main.items()
    }


SHARES = {"vector": vector_shares, "group": group_shares}


def project_orthogonal(g_aux: Gradient, g_main: Gradient, delta: float = 1e-8, projection: str = "vector") -> Gradient:
    """Eq. (10): g_proj = g_aux - <g_aux, g_main> / (|g_main|^2 + delta) g_main."""
    share = SHARES[projection](products(g_aux, g_main), products(g_main, g_main), delta)
    return {name: torch.sub(g_aux[name], g, alpha=share[name]) for name, g in g_main.items()}


def fuse(
    g_main: Gradient,
    candidates: Sequence[tuple[float, Gradient]],
    delta: float = 1e-8,
    projection: str = "vector",
) -> FusionResult:
    """g_fused = g_main + sum_j g_proj^j of candidates (w_j, g_hist^j). Without any, g_fused is g_main itself, no copy.

    The sum of project_orthogonal(w g_hist, g_main), with neither g_aux nor g_proj in memory. Raises ValueError when
    names or shapes differ.
    """
    main_main = products(g_main, g_main)
    main_norm = math.sqrt(sum(main_main.values()))
    if not candidates:
        return FusionResult(g_main, main_main, main_norm)
    g_fused = {name: g.clone() for name, g in g_main.items()}
    cosines = []
    for w, g_hist in candidates:
        hist_main = products(g_hist, g_main)
        aux_main = {name: w * product for name, product in hist_main.items()}
        share = SHARES[projection](aux_main, main_main, delta)
        for name, g in g_fused.items():
            g.add_(g_hist[name], alpha=w).sub_(g_main[name], alpha=share[name])
        scale = norm(g_hist) * main_norm
        cosines.append(sum(hist_main.values()) / scale if scale else 0.0)
    return FusionResult(g_fused, main_main, norm(g_fused), tuple(cosines))


def _dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two tensors in float64, a chunk at a time: no float64 copy of the whole."""
    a, b = a.reshape(-1), b.reshape(-1)
    if a.numel() <= CHUNK:
        return float(torch.dot(a.double(), b.double()))
    return float(sum(torch.dot(x.double(), y.double()) for x, y in zip(a.split(CHUNK), b.split(CHUNK))))
