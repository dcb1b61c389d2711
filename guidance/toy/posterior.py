# SPDX-License-Identifier: Apache-2.0
"""Closed-form posterior mean of a clean picture under the ideal prior: Bayes' rule on a finite set of pictures.

Model, in [-1, 1] pixel units, per colour channel c:

    z = F_i + b_c M_i + s xi            picture i of the set on background b, kernel noise of std s
    x = a z + sigma (eps + o_c 1)       what the diffusion model is shown; o_c ~ N(0, offset_std^2) is the offset noise
                                        that guidance adds to every draw (0 for a prior that does not know of it)

The background is white, black or of any colour, b ~ N(0, 1/3) per channel, the variance of a uniform draw. Everything
but i and the kind of background is Gaussian and integrated out exactly: per picture, background and channel that is a
2 x 2 system in the two unknowns (offset, background).

| symbol | name | shape |
|---|---|---|
| B, n, P | rows, pictures, pixels | |
| x | noisy input / latent scale | [B, 3, H, W] |
| v | variance of x given i, b, o: a^2 s^2 + sigma^2 | [B] |
| r | residual x - a (F + b M) | only as inner products |
| log_prior | log probability of picture i under the caption | [B, n] |

Pictures come as half sets: picture i stands for itself and its mirror image, each with half its probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUNDS: tuple[tuple[str, float, float, float], ...] = (
    ("white", 0.6, 1.0, 0.0),
    ("black", 0.2, -1.0, 0.0),
    ("any", 0.2, 0.0, 1.0 / 3.0),
)
"""(name, probability, mean, variance) of the background, [-1, 1] units."""


@dataclass(frozen=True)
class PictureTable:
    """Pictures of the set and the inner products that do not depend on the input."""

    foreground: Tensor  # [n, 3P]
    mask: Tensor  # [n, P]
    ff: Tensor  # [n] |F|^2
    fm: Tensor  # [n, 3] F_c . M
    f1: Tensor  # [n, 3] sum of F_c
    mm: Tensor  # [n] |M|^2
    m1: Tensor  # [n] sum of M

    @classmethod
    def build(cls, foreground: Tensor, mask: Tensor) -> PictureTable:
        """From F [n, 3, H, W] and M [n, 1, H, W]."""
        n = len(foreground)
        f, m = foreground.reshape(n, 3, -1), mask.reshape(n, -1)
        fm = torch.einsum("ncp,np->nc", f, m)
        return cls(f.reshape(n, -1), m, f.square().sum((1, 2)), fm, f.sum(2), m.square().sum(1), m.sum(1))


@dataclass(frozen=True)
class NoiseLevel:
    """Per row [B]: x = a z + sigma (eps + offset); s is the kernel's std, offset_std that of the offset noise."""

    a: Tensor
    sigma: Tensor
    s: float
    offset_std: float

    @property
    def v(self) -> Tensor:
        """Variance of a pixel given picture, background and offset."""
        return (self.a * self.s) ** 2 + self.sigma**2


@dataclass(frozen=True)
class _Evidence:
    """Of every (row and its mirror image, picture) for one kind of background."""

    log_likelihood: Tensor  # [2B, n]
    offset: Tensor  # [2B, n, 3] posterior mean of sigma * o_c
    background: Tensor  # [2B, n, 3] posterior mean of b_c


def posterior_mean(x: Tensor, level: NoiseLevel, table: PictureTable, log_prior: Tensor) -> Tensor:
    """E[z | x] of shape [B, 3, H, W]."""
    batch, height, width = len(x), x.shape[2], x.shape[3]
    both = torch.cat([x, x.flip(-1)]).reshape(2 * batch, 3, -1)  # rows, then mirrored rows
    doubled = NoiseLevel(level.a.repeat(2), level.sigma.repeat(2), level.s, level.offset_std)
    evidences = _evidences(both, doubled, table)
    logits = [log_prior.repeat(2, 1) + e.log_likelihood for e in evidences]  # each [2B, n]
    weights = _normalised(torch.stack(logits), batch)  # [backgrounds, 2B, n]
    picture = (weights.sum(0) @ table.foreground).view(2 * batch, 3, -1)
    tint = sum(w[..., None] * e.background for w, e in zip(weights, evidences, strict=True))  # [2B, n, 3]
    picture = picture + torch.einsum("bnc,np->bcp", tint, table.mask)
    offset = sum((w[..., None] * e.offset).sum(1) for w, e in zip(weights, evidences, strict=True))  # [2B, 3]
    picture = picture.view(2 * batch, 3, height, width)
    picture = picture[:batch] + picture[batch:].flip(-1)
    offset = (offset[:batch] + offset[batch:])[..., None, None]
    through = (level.a * level.s**2 / level.v).view(-1, 1, 1, 1)  # how much of x itself the kernel lets through
    return through * (x - offset) + (1 - level.a.view(-1, 1, 1, 1) * through) * picture


def _normalised(logits: Tensor, batch: int) -> Tensor:
    """Softmax over backgrounds, the two mirror halves and pictures of each row; logits [backgrounds, 2B, n]."""
    kinds, _, n = logits.shape
    rows = logits.view(kinds, 2, batch, n).permute(2, 0, 1, 3).reshape(batch, -1)
    return torch.softmax(rows, dim=1).view(batch, kinds, 2, n).permute(1, 2, 0, 3).reshape(kinds, 2 * batch, n)


def _evidences(x: Tensor, level: NoiseLevel, table: PictureTable) -> list[_Evidence]:
    """One entry per kind of background, for x [2B, 3, P]; terms common to all pictures and backgrounds are left out."""
    x_f = x.flatten(1) @ table.foreground.T  # [2B, n]
    x_m = torch.einsum("bcp,np->bnc", x, table.mask)
    x_1 = x.sum(2)[:, None]  # [2B, 1, 3]
    a, v = level.a.view(-1, 1), level.v.view(-1, 1)
    offset_variance = (level.sigma.view(-1, 1) * level.offset_std) ** 2
    p = (x.shape[2] + (v / offset_variance.clamp(min=1e-12)))[..., None]  # [2B, 1, 1]
    result = []
    for _, probability, mean, variance in BACKGROUNDS:
        square = table.ff + 2 * mean * table.fm.sum(1) + 3 * mean**2 * table.mm
        r_1 = x_1 - a[..., None] * (table.f1 + mean * table.m1[:, None])  # [2B, n, 3]
        r_m = x_m - a[..., None] * (table.fm + mean * table.mm[:, None])
        offset, shift, gain = _solve_unknowns(r_1, r_m, p, table, a**2 * variance, v)
        log_likelihood = (a * (x_f + mean * x_m.sum(2)) - a**2 * square / 2) / v + gain + math.log(probability)
        result.append(_Evidence(log_likelihood, offset, mean + shift / a[..., None]))
    return result


def _solve_unknowns(
    r_1: Tensor, r_m: Tensor, p: Tensor, table: PictureTable, variance: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Integrates out the offset and the background's deviation from its mean (variance [2B, 1], times a^2; 0: none).

    r_1, r_m [2B, n, 3] are the residual's products with 1 and M; p [2B, 1, 1] = pixels + v / variance of the offset.
    Returns the posterior means of both (the background's times a) [2B, n, 3] and their gain in log evidence [2B, n].
    """
    if not bool(variance.any()):
        return r_1 / p, torch.zeros_like(r_1), (r_1.square() / p).sum(2) / (2 * v)
    q = table.mm[:, None] + (v / variance)[..., None]  # [2B, n, 1]
    m_1 = table.m1[:, None]
    determinant = p * q - m_1**2
    offset = (q * r_1 - m_1 * r_m) / determinant
    shift = (p * r_m - m_1 * r_1) / determinant
    volume = 1.5 * torch.log(determinant / p * (variance / v)[..., None])[..., 0]  # three channels
    return offset, shift, (r_1 * offset + r_m * shift).sum(2) / (2 * v) - volume
