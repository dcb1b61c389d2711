# SPDX-License-Identifier: Apache-2.0
"""Closed-form posterior mean of a clean image under the ideal prior: Bayes' rule on a finite set of images.

Model, in [-1, 1] pixel units, per colour channel c:

    z = G_i + s xi                      image i of the set, kernel noise of std s
    x = a z + sigma (eps + o_c 1)       what the diffusion model is shown; o_c ~ N(0, offset_std^2) is the offset noise
                                        that guidance adds to every draw (0 for a prior that does not know of it)

Everything but i is Gaussian and integrated out exactly. Ignoring o_c instead would let every draw shift the brightness
of the whole image, which weighs as much as thousands of pixels.

| symbol | name | shape |
|---|---|---|
| B, K, n, P | rows, texts, images, pixels | |
| x | noisy input / latent scale | [B, 3, H, W] |
| v | variance of x given i and o: a^2 s^2 + sigma^2 | [B] |
| r | residual x - a G_i | only as inner products |
| log_prior | log probability of image i under each caption, text by text | [K B, n] |

Images come as half sets: image i stands for itself and its mirror image, each with half its probability.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class ImageTable:
    """Images of the set and the inner products that do not depend on the input.

    Of the values of an image those are stored that are not the same in all images and their mirror images: a white
    background adds the same number to each log likelihood. An image is its even and its odd part about the vertical
    axis, of which the left half is enough; the mirror image differs in the sign of the odd part alone. So both are
    compared, and averaged, by products of half the size. By column, for each product then reads them in order.
    """

    columns: Tensor  # [m] which of the left half's 3 H ceil(W/2) values differ
    even: Tensor  # [m, n] (G + mirror image of G) / 2 there
    odd: Tensor  # [m, n] (G - mirror image of G) / 2 there
    common: Tensor  # [3, H, W] the values that all images share, 0 where they differ
    squares: Tensor  # [n] |G|^2 where they differ
    sums: Tensor  # [n, 3] sum of G_c

    @classmethod
    def build(cls, images: Tensor) -> Self:
        """From G [n, 3, H, W], a few at a time: there are gigabytes of them."""
        first = images[0]
        differs = (images != first).any(dim=0) | (first != first.flip(-1))
        differs = differs | differs.flip(-1)
        columns = _left(differs).flatten().nonzero()[:, 0]
        even, odd = (images.new_empty(len(columns), len(images)) for _ in range(2))
        for begin in range(0, len(images), IMAGES_AT_ONCE):
            some = slice(begin, begin + IMAGES_AT_ONCE)
            for table, part in zip((even, odd), _parts(images[some])):
                table[:, some] = part.flatten(1).index_select(1, columns).T / 2
        squares = torch.stack([(image * differs).square().sum() for image in images])
        return cls(columns, even, odd, first.masked_fill(differs, 0), squares, images.sum((2, 3)))

    def inner(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """<x, G_i> [B, n] where the images differ, of x [B, 3, H, W], and of its mirror image."""
        even, odd = _parts(x)
        if x.shape[-1] % 2:
            even[..., -1] /= 2  # the middle column is its own mirror image
        even, odd = (part.flatten(1).index_select(1, self.columns) for part in (even, odd))
        of_even, of_odd = even @ self.even, odd @ self.odd
        return of_even + of_odd, of_even - of_odd

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """sum_i weights_0i G_i + weights_1i mirror image of G_i, [R, 3, H, W]; weights [R, 2, n], or [R, 1, n]."""
        own, mirrored = weights[:, 0], weights[:, 1:].sum(1)
        even = (self.even @ (own + mirrored).T).T
        odd = (self.odd @ (own - mirrored).T).T
        common = _left(self.common).flatten() * (own + mirrored).sum(1, keepdim=True)
        halves = torch.cat([common, common])
        halves.scatter_(1, self.columns.expand(len(halves), -1), torch.cat([even + odd, even - odd]))
        left, right = halves.view(2, len(weights), *_left(self.common).shape)
        return torch.cat([left, right.flip(-1)[..., self.common.shape[-1] % 2 :]], dim=-1)


def _left(x: Tensor) -> Tensor:
    """The left half of images [..., W], with the middle column of an odd number: [..., ceil(W/2)]."""
    return x[..., : (x.shape[-1] + 1) // 2]


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """The left halves of x plus, and minus, its mirror image."""
    own, mirrored = _left(x), x[..., x.shape[-1] // 2 :].flip(-1)
    return own + mirrored, own - mirrored


@dataclass(frozen=True)
class NoiseLevel:
    """Per row [B]: x = a z + sigma (eps + offset); s is the kernel's std, offset_std that of the offset noise."""

    a: Tensor
    sigma: Tensor
    s: float
    offset_std: float

    @property
    def v(self) -> Tensor:
        """Variance of a pixel given image and offset."""
        return (self.a * self.s) ** 2 + self.sigma**2


def posterior_mean(
    x: Tensor, level: NoiseLevel, table: ImageTable, log_prior: Tensor, mirrored: bool = True
) -> Tensor:
    """E[z | x] of shape [K B, 3, H, W], text by text. Without `mirrored` the images of the table are all there are."""
    batch, texts = len(x), len(log_prior) // len(x)
    a, v = level.a.view(-1, 1, 1), level.v.view(-1, 1, 1)
    rest, offset = _evidence(x, level, table)  # [B, n], [B, n, 3]
    cross = torch.stack(table.inner(x)[: 2 if mirrored else 1], dim=1)  # [B, S, n]: S = 2, image and mirror image, or 1
    rows = a / v * cross + rest[:, None] + log_prior.view(texts, batch, 1, -1)  # [K, B, S, n]
    weights = torch.softmax(rows.flatten(2), dim=2).view_as(rows)
    through = a * level.s**2 / v  # how much of x itself the kernel lets through
    image = table.weighted_sum((weights * (1 - a * through)).flatten(0, 1)).view(texts, *x.shape)
    shift = through[..., 0] * torch.einsum("kbn,bnc->kbc", weights.sum(2), offset)
    return image.add_(through[..., None] * x).sub_(shift[..., None, None]).flatten(0, 1)


def _evidence(x: Tensor, level: NoiseLevel, table: ImageTable) -> tuple[Tensor, Tensor]:
    """Log likelihood [B, n] up to a constant of the row and without <x, G_i>, and posterior mean of sigma o_c
    [B, n, 3]; x [B, 3, H, W]. Both are the same for mirror images."""
    a, v = level.a.view(-1, 1), level.v.view(-1, 1)
    residual_sum = x.sum((2, 3))[:, None] - a[..., None] * table.sums  # [B, n, 3]
    offset_variance = ((level.sigma.view(-1, 1) * level.offset_std) ** 2).clamp(min=1e-12)
    offset = residual_sum / (x.shape[2] * x.shape[3] + v / offset_variance)[..., None]
    gain = (residual_sum * offset).sum(2) / (2 * v)  # of explaining the residual's mean by the offset
    return gain - a**2 * table.squares / (2 * v), offset
