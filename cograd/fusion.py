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

A gradient is a mapping of named tensors that stands for one vector, all tensors end to end; gradients that meet have
the same names and shapes. Each tensor of a result has the type that it has in g_main; until then all are of the widest.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

Gradient = Mapping[str, Tensor]
Shape = tuple[int, ...]
Scale = float | Mapping[str, float]
"""A factor, or one for each tensor by its name."""
ON_HOST = ("cpu",)  # devices whose numbers are read without waiting
DEVICE_CHUNK = 1 << 22  # numbers that are float64 at a time
CHUNK = 1 << 13  # a float32 sum of so many products is exact to about 1e-7, and is made by one thread
FLOAT32_RANGE = (1e-24, 1e30)  # sums of this size lose less than 1e-6 to products that underflow float32


class Flat(Gradient):
    """A gradient whose tensors are parts of one `vector` [D], made when they are asked for; neither is to be changed.

    `square` is |g|^2, once known: a stored gradient is compared many times. `is_finite` is true once that is known.
    """

    def __init__(
        self, vector: Tensor, shapes: Mapping[str, Shape], types: Mapping[str, torch.dtype] | None = None
    ) -> None:
        """shapes and types: of the parts by name, in their order; the vector's type is one that holds all of them."""
        self.vector, self.shapes = vector, shapes
        self.types = dict.fromkeys(shapes, vector.dtype) if types is None else types
        self.square: float | None = None
        self.is_finite = False

    @cached_property
    def views(self) -> dict[str, Tensor]:
        """Where in the vector each tensor is, by name; of the vector's type."""
        parts = self.vector.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts)}

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """Each tensor in its own type, by name: a view of the vector, or a copy where that is of another type."""
        return {name: part.to(self.types[name]) for name, part in self.views.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class FusionResult:
    """g_fused = kept g_main + weight g_aux, and for each candidate the cosine of g_hist with g_main; |g_main| and
    |g_fused| where there is one.

    region, distances: the view's region and how far those of the candidates are, where CoGrad fused.
    """

    g_main: Gradient
    kept: Scale = 1.0  # 1 - share
    g_aux: Flat | None = None  # sum of the candidates' g_aux, without the factor `weight`
    weight: float = 1.0
    main_norm: float | None = None
    fused_norm: float | None = None
    cosines: tuple[float, ...] = ()
    region: int | None = None
    distances: tuple[float, ...] = ()

    @cached_property
    def g_fused(self) -> Gradient:
        """What the optimizer gets of this view; g_main itself where nothing was fused."""
        total = GradientSum()
        total.add(self.g_main, self.kept)
        if self.g_aux is not None:
            total.add(self.g_aux, self.weight)
        assert total.total is not None
        return total.total

    def record(self) -> dict[str, Any]:
        """All but the gradients, for a line of JSON."""
        return {
            "region": self.region,
            "main_norm": self.main_norm,
            "fused_norm": self.fused_norm,
            "auxiliaries": len(self.cosines),
            "cosines": list(self.cosines),
            "distances": list(self.distances),
        }


def flat(g: Gradient) -> Flat:
    """A copy of g end to end; g itself where it is that already."""
    if isinstance(g, Flat):
        return g
    vector = torch.cat([x.detach().reshape(-1) for x in g.values()]) if g else torch.zeros(0)
    return Flat(vector, _shapes(g), types_of(g))


def added(a: Gradient, b: Gradient) -> Gradient:
    """a + b; a name that only one of them has keeps its tensor."""
    if isinstance(a, Flat) and isinstance(b, Flat) and fits(a, b):
        return Flat(a.vector + b.vector, a.shapes, a.types)
    return {**b, **{name: x + b[name] if name in b else x for name, x in a.items()}}


class GradientSum:
    """`total`: the sum of gradients that are added one after the other, none of which is changed; of one, itself."""

    def __init__(self) -> None:
        self.total: Gradient | None = None
        self._is_ours = False  # every tensor of the total was made here

    def add(self, g: Gradient, scale: Scale = 1.0) -> None:
        """total <- total + scale g."""
        total = self.total
        if total is not None and self._is_ours and fits(total, g):
            if isinstance(scale, float) and isinstance(total, Flat) and isinstance(g, Flat):
                total.vector.add_(g.vector, alpha=scale)
            else:
                own = total.views if isinstance(total, Flat) else total
                for name, x in g.items():
                    own[name].add_(x, alpha=_factor(scale, name))
            return
        if scale != 1.0:
            g = _scaled(g, scale)
        if total is None:
            self.total, self._is_ours = g, scale != 1.0
        else:
            self.total, self._is_ours = added(total, g), fits(total, g)


def inner(a: Gradient, b: Gradient) -> float:
    """<a, b> over all tensors. ValueError when names or shapes differ."""
    _check_fit(a, b)
    pairs = [(x.reshape(-1), b[name].reshape(-1), [slice(0, x.numel())]) for name, x in a.items()]
    return sum(dot for (dot,) in _dots(pairs)) if pairs else 0.0


def norm(a: Gradient) -> float:
    """|a| over all tensors."""
    if isinstance(a, Flat):
        if a.square is None:
            ((a.square,),) = _dots([(a.vector, a.vector, _vectors(a, "vector"))])
        return math.sqrt(a.square)
    return math.sqrt(inner(a, a))


def project_orthogonal(
    g_aux: Gradient, g_main: Gradient, delta: float = 1e-8, projection: str = "vector"
) -> Flat:
    """Eq. (10): g_proj = g_aux - <g_aux, g_main> / (|g_main|^2 + delta) g_main, for g_main other than 0."""
    result = fuse(g_main, [(1.0, g_aux)], delta, projection)
    kept, total = result.kept, GradientSum()
    total.add(result.g_main, kept - 1 if isinstance(kept, float) else {name: k - 1 for name, k in kept.items()})
    total.add(flat(g_aux))
    assert isinstance(total.total, Flat)
    return total.total


def fuse(
    g_main: Gradient,
    candidates: Sequence[tuple[float, Gradient]],
    delta: float = 1e-8,
    projection: str = "vector",
) -> FusionResult:
    """g_fused = g_main + sum_j g_proj^j of candidates (w_j, g_hist^j). Without any, g_fused is g_main itself, and
    nothing is computed.

    Eq. (10) is linear in g_aux, so the sum of the g_aux^j = w_j g_hist^j is projected, once:
    g_fused = (1 - share) g_main + sum_j w_j g_hist^j. Raises ValueError when names or shapes differ.
    """
    if not candidates:
        return FusionResult(g_main)
    main, hists, weights = flat(g_main), [flat(g_hist) for _, g_hist in candidates], [w for w, _ in candidates]
    for hist in hists:
        _check_fit(hist, main)
    spans = _vectors(main, projection)
    with_main = [(x.vector, main.vector, spans) for x in (main, *hists)]
    new = [x for x in hists if x.square is None]
    dots = _dots([*with_main, *[(x.vector, x.vector, _vectors(x, "vector")) for x in new]])  # all at once
    main_main, hist_mains = dots[0], dots[1 : len(with_main)]
    for x, (square,) in zip(new, dots[len(with_main) :], strict=True):
        x.square = square
    if len(spans) == 1:
        main.square = main_main[0]
    main_norm = math.sqrt(sum(main_main))
    scales = [norm(hist) * main_norm for hist in hists]
    cosines = [sum(hist_main) / scale if scale else 0.0 for hist_main, scale in zip(hist_mains, scales)]
    aux_main = [sum(w * dot for w, dot in zip(weights, part)) for part in zip(*hist_mains)]
    kept = [1 - share for share in projection_shares(aux_main, main_main, delta)]
    g_aux, weight = hists[0], float(weights[0])
    if len(hists) > 1:
        g_aux, weight = Flat(weights[0] * hists[0].vector, main.shapes, main.types), 1.0
        for w, hist in zip(weights[1:], hists[1:]):
            g_aux.vector.add_(hist.vector, alpha=w)
    products = (k * k * own + 2 * k * other for k, own, other in zip(kept, main_main, aux_main))
    fused_norm = math.sqrt(max(sum(products) + (weight * norm(g_aux)) ** 2, 0.0))
    kept_main: Scale = kept[0] if projection == "vector" else dict(zip(main.shapes, kept, strict=True))
    return FusionResult(main, kept_main, g_aux, weight, main_norm, fused_norm, tuple(cosines))


def _vectors(main: Flat, projection: str) -> list[slice]:
    """The parts that Eq. (10) projects each for itself: one, or each tensor.

    DEVIATION from Eq. (10): not by default (field `projection`: vector, all tensors as one vector, as printed). With
    group each named tensor is a vector of its own, since as one vector nearly all of the squared norm is position, and
    colours are hardly projected.
    """
    return _spans(main) if projection == "group" else [slice(0, len(main.vector))]


def projection_shares(aux_main: Sequence[float], main_main: Sequence[float], delta: float) -> list[float]:
    """Eq. (10): <g_aux, g_main> / (|g_main|^2 + delta) of each part; 0 where there is no g_main.

    Parts share delta like |g_main|^2, or it would undo the projection of small ones.
    """
    square = sum(main_main)
    return [aux / (own * (1 + delta / square)) if own else 0.0 for aux, own in zip(aux_main, main_main)]


def _factor(scale: Scale, name: str) -> float:
    return scale if isinstance(scale, float) else scale[name]


def _scaled(g: Gradient, scale: Scale) -> Gradient:
    """scale g, a copy."""
    if isinstance(scale, float) and isinstance(g, Flat):
        return Flat(scale * g.vector, g.shapes, g.types)
    scaled = {name: _factor(scale, name) * x for name, x in (g.views if isinstance(g, Flat) else g).items()}
    return Flat(flat(scaled).vector, g.shapes, g.types) if isinstance(g, Flat) else scaled


def _shapes(g: Gradient) -> Mapping[str, Shape]:
    return g.shapes if isinstance(g, Flat) else {name: tuple(x.shape) for name, x in g.items()}


def types_of(g: Gradient) -> Mapping[str, torch.dtype]:
    """Type of each tensor, by name."""
    return g.types if isinstance(g, Flat) else {name: x.dtype for name, x in g.items()}


def _check_fit(a: Gradient, b: Gradient) -> None:
    """ValueError unless names and shapes are the same, in the same order."""
    if a is not b and not fits(a, b):
        shapes = f"{_shapes(a)} and {_shapes(b)}"
        raise ValueError(f"gradients of shapes {shapes} do not fit; pass the same parameters each time")


def fits(a: Gradient, b: Gradient) -> bool:
    one, other = _shapes(a), _shapes(b)
    return one is other or (one == other and list(one) == list(other))


def _spans(g: Flat) -> list[slice]:
    """Where in the vector each tensor is."""
    ends = list(accumulate(map(math.prod, g.shapes.values())))
    return [slice(begin, end) for begin, end in zip([0, *ends], ends)]


def _dots(triples: Sequence[tuple[Tensor, Tensor, Sequence[slice]]]) -> list[list[float]]:
    """Inner products of parts of two vectors [D], to 1e-6 of |a| |b|, for each (a, b, parts).

    The host waits for a GPU once, not for each number.
    """
    if all(a.device.type in ON_HOST for a, _, _ in triples):
        return [[_dot(a[span], b[span]) for span in spans] for a, b, spans in triples]
    sums = [_device_dot(a[span], b[span]) for a, b, spans in triples for span in spans]
    values = iter(torch.stack(sums).tolist())
    return [[next(values) for _ in spans] for _, _, spans in triples]


def _device_dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> in float64, left on the device."""
    pieces = zip(a.split(DEVICE_CHUNK), b.split(DEVICE_CHUNK))
    return torch.stack([(x.double() * y.double()).sum() for x, y in pieces]).sum()


def _dot(a: Tensor, b: Tensor) -> float:
    """A float64 sum of products of CHUNK numbers each, which are float32, several times faster, where those are exact
    enough: where nothing under- or overflows. By NumPy: torch's call for each piece takes as long as the products.
    """
    if a.dtype == b.dtype == torch.float32:
        x, y = a.detach().numpy(), b.detach().numpy()
        whole = len(x) // CHUNK * CHUNK
        with np.errstate(over="ignore", invalid="ignore"):
            pieces = np.matmul(x[:whole].reshape(-1, 1, CHUNK), y[:whole].reshape(-1, CHUNK, 1))
            value = float(pieces.sum(dtype=np.float64)) + float(np.dot(x[whole:], y[whole:]))
        if FLOAT32_RANGE[0] < abs(value) < FLOAT32_RANGE[1] or not len(x):
            return value
    return sum(float(torch.dot(x.double(), y.double())) for x, y in zip(a.split(CHUNK), b.split(CHUNK)))
