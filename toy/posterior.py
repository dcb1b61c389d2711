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
| B, n, P | rows, images, pixels | |
| x | noisy input / latent scale | [B, 3, H, W] |
| v | variance of x given i and o: a^2 s^2 + sigma^2 | [B] |
| r | residual x - a G_i | only as inner products |
| log_prior | log probability of image i under the caption | [B, n] |

Images come as half sets: image i stands for itself and its mirror image, each with half its probability.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

NEGLIGIBLE = 1e-8
"""Images that are less probable than this in every row are left out of the weighted sum."""


@dataclass(frozen=True)
class ImageTable:
    """Images of the set and the inner products that do not depend on the input."""

    images: Tensor  # [n, 3P]
    squares: Tensor  # [n] |G|^2
    sums: Tensor  # [n, 3] sum of G_c

    @classmethod
    def build(cls, images: Tensor) -> Self:
        """From G [n, 3, H, W]."""
        return cls(images.flatten(1), images.square().sum((1, 2, 3)), images.sum((2, 3)))


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

    def doubled(self) -> Self:
        """For rows followed by their mirror images."""
        return replace(self, a=self.a.repeat(2), sigma=self.sigma.repeat(2))


def posterior_mean(
    x: Tensor, level: NoiseLevel, table: ImageTable, log_prior: Tensor, mirrored: bool = True
) -> Tensor:
    """E[z | x] of shape [B, 3, H, W]. Without `mirrored` the images of the table are all there are."""
    batch, shape = len(x), x.shape[1:]
    if not mirrored:
        log_likelihood, offset = _evidence(x.flatten(2), level, table)
        weights = torch.softmax(log_likelihood + log_prior, dim=1)
        shift = (weights[..., None] * offset).sum(1)[..., None, None]
        return _mean(x, level, _weighted_sum(weights, table.images).view(batch, *shape), shift)
    both = torch.cat([x, x.flip(-1)]).flatten(2)  # [2B, 3, P]: rows, then mirrored rows
    log_likelihood, offset = _evidence(both, level.doubled(), table)  # [2B, n], [2B, n, 3]
    rows = torch.cat([part + log_prior for part in log_likelihood.split(batch)], dim=1)  # [B, 2n]
    weights = torch.cat(torch.softmax(rows, dim=1).split(log_prior.shape[1], dim=1))  # [2B, n]
    image = _weighted_sum(weights, table.images).view(2 * batch, *shape)
    image = image[:batch] + image[batch:].flip(-1)
    shift = (weights[..., None] * offset).sum(1)  # [2B, 3]
    return _mean(x, level, image, (shift[:batch] + shift[batch:])[..., None, None])


def _mean(x: Tensor, level: NoiseLevel, image: Tensor, shift: Tensor) -> Tensor:
    """E[z | x] from the mean image [B, 3, H, W] of the set and the mean offset [B, 3, 1, 1]."""
    a = level.a.view(-1, 1, 1, 1)
    through = a * level.s**2 / level.v.view(-1, 1, 1, 1)  # how much of x itself the kernel lets through
    return through * (x - shift) + (1 - a * through) * image


def _evidence(x: Tensor, level: NoiseLevel, table: ImageTable) -> tuple[Tensor, Tensor]:
    """Log likelihood [2B, n] up to a constant of the row, and posterior mean of sigma o_c [2B, n, 3]; x [2B, 3, P]."""
    a, v = level.a.view(-1, 1), level.v.view(-1, 1)
    cross = x.flatten(1) @ table.images.T  # [2B, n]
    residual_sum = x.sum(2)[:, None] - a[..., None] * table.sums  # [2B, n, 3]
    offset_variance = ((level.sigma.view(-1, 1) * level.offset_std) ** 2).clamp(min=1e-12)
    offset = residual_sum / (x.shape[2] + v / offset_variance)[..., None]
    gain = (residual_sum * offset).sum(2) / (2 * v)  # of explaining the residual's mean by the offset
    return (a * cross - a**2 * table.squares / 2) / v + gain, offset


def _weighted_sum(weights: Tensor, images: Tensor) -> Tensor:
    """weights [2B, n] @ images [n, 3P], without the images that count for nothing."""
    kept = (weights > NEGLIGIBLE).any(dim=0)
    if 2 * int(kept.sum()) > len(kept):
        return weights @ images
    return weights[:, kept] @ images[kept]
