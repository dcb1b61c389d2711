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

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageTable:
    """Images of the set and the inner products that do not depend on the input.

    Of the 3P values of an image those are stored that are not the same in all images and their mirror images: a white
    background adds the same number to each log likelihood. By column, so that both products read them in order.
    """

    columns: Tensor  # [m] which of the 3P values differ
    varying: Tensor  # [m, n] these values of each image
    common: Tensor  # [3P] the values that all images share, 0 at `columns`
    squares: Tensor  # [n] |G|^2 over `columns`
    sums: Tensor  # [n, 3] sum of G_c

    @classmethod
    def build(cls, images: Tensor) -> Self:
        """From G [n, 3, H, W]."""
        values, first = images.flatten(1), images[0]
        differs = (images != first).any(dim=0) | (first != first.flip(-1))
        differs = (differs | differs.flip(-1)).flatten()
        columns = differs.nonzero()[:, 0]
        varying = values.T.index_select(0, columns)
        common = values[0].masked_fill(differs, 0)
        return cls(columns, varying, common, varying.square().sum(0), images.sum((2, 3)))

    def inner(self, x: Tensor) -> Tensor:
        """<x, G_i> over `columns` [B, n] of x [B, 3P]."""
        return x.index_select(1, self.columns) @ self.varying

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """sum_i weights_i G_i [B, 3P] of weights [B, n]."""
        made = weights.sum(dim=1, keepdim=True) * self.common
        return made.index_copy_(1, self.columns, (self.varying @ weights.T).T)


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

    def repeated(self, sides: int) -> Self:
        """For rows followed by their mirror images."""
        return replace(self, a=self.a.repeat(sides), sigma=self.sigma.repeat(sides))


def posterior_mean(
    x: Tensor, level: NoiseLevel, table: ImageTable, log_prior: Tensor, mirrored: bool = True
) -> Tensor:
    """E[z | x] of shape [K B, 3, H, W], text by text. Without `mirrored` the images of the table are all there are."""
    batch, texts, shape = len(x), len(log_prior) // len(x), x.shape[1:]
    priors = log_prior.view(texts, batch, -1)
    both = torch.cat([x, x.flip(-1)]) if mirrored else x  # [S B, 3, H, W]: S = 2, rows, then mirrored rows, or S = 1
    sides = len(both) // batch
    log_likelihood, offset = _evidence(both.flatten(2), level.repeated(sides), table)  # [S B, n], [S B, n, 3]
    log_likelihood, offset = log_likelihood.view(sides, batch, -1), offset.view(sides, batch, -1, 3)
    rows = log_likelihood + priors[:, None]  # [K, S, B, n]
    weights = torch.softmax(rows.transpose(1, 2).flatten(2), dim=2).view(texts, batch, sides, -1).transpose(1, 2)
    image = table.weighted_sum(weights.reshape(texts * len(both), -1)).view(texts, sides, batch, *shape)
    image = image[:, 0] + image[:, 1].flip(-1) if mirrored else image[:, 0]
    shift = torch.einsum("ksbn,sbnc->kbc", weights, offset)
    return _mean(x, level, image, shift[..., None, None]).flatten(0, 1)


def _mean(x: Tensor, level: NoiseLevel, image: Tensor, shift: Tensor) -> Tensor:
    """E[z | x] from the mean images [K, B, 3, H, W] of the set and the mean offsets [K, B, 3, 1, 1]."""
    a = level.a.view(-1, 1, 1, 1)
    through = a * level.s**2 / level.v.view(-1, 1, 1, 1)  # how much of x itself the kernel lets through
    return through * (x - shift) + (1 - a * through) * image


def _evidence(x: Tensor, level: NoiseLevel, table: ImageTable) -> tuple[Tensor, Tensor]:
    """Log likelihood [2B, n] up to a constant of the row, and posterior mean of sigma o_c [2B, n, 3]; x [2B, 3, P]."""
    a, v = level.a.view(-1, 1), level.v.view(-1, 1)
    cross = table.inner(x.flatten(1))  # [2B, n]
    residual_sum = x.sum(2)[:, None] - a[..., None] * table.sums  # [2B, n, 3]
    offset_variance = ((level.sigma.view(-1, 1) * level.offset_std) ** 2).clamp(min=1e-12)
    offset = residual_sum / (x.shape[2] + v / offset_variance)[..., None]
    gain = (residual_sum * offset).sum(2) / (2 * v)  # of explaining the residual's mean by the offset
    return (a * cross - a**2 * table.squares / 2) / v + gain, offset
