# SPDX-License-Identifier: Apache-2.0
"""A Janus measure without weights: does an object look less and less like its front, the farther one goes around it?

Around an object with one front, views differ more from the front view the farther away they are. A second front breaks
that order, and a front all round leaves none. How alike two views are is read from the colours of the object alone,
without the background: silhouettes of many objects are the same from front and back. benchmarks/results/janus.md says
how often the measure is right. Letters: V views of one turn, H W image, C colours.
"""

import numpy as np

VIEWS, SIDE_PX = 24, 64
LEVELS = 4
"""Of each colour channel; C = LEVELS ** 3."""
COVERED = 0.5
"""A pixel with more coverage than this is the object's."""


def order(images: np.ndarray, coverage: np.ndarray) -> float:
    """Rank correlation in [-1, 1] of a view's difference from a reference view with its azimuth from there.

    `images`: uint8 [V, H, W, 3], evenly spaced over one turn; `coverage`: [V, H, W] in [0, 1]. The mean over a
    reference view and its two neighbours, for the reference where that is largest. 0 where all views look the same;
    nan where a view shows nothing.
    """
    shares = colour_shares(images, coverage)
    if not shares.any(axis=1).all():
        return float("nan")
    steps = np.arange(1, len(shares) // 2 + 1)
    difference = _by_step(_distances(shares), steps)
    correlation = np.array([rank_correlation(row, steps) for row in difference])
    return float(((np.roll(correlation, 1) + correlation + np.roll(correlation, -1)) / 3).max())


def colour_shares(images: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Share of each colour among the object's pixels, [V, C]; 0 in a view that shows nothing."""
    level = images.astype(int) * LEVELS // 256  # [V, H, W, 3]
    colour = (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]
    counts = [np.bincount(own[seen > COVERED], minlength=LEVELS**3) for own, seen in zip(colour, coverage)]
    return np.stack(counts) / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays [n]; equal values share their mean rank. 0 where one is constant."""
    a, b = (ranked - ranked.mean() for ranked in (_ranks(x), _ranks(y)))
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _distances(shares: np.ndarray) -> np.ndarray:
    """Hellinger distances [V, V] of distributions [V, C]; rounded, so that equal views are at equal distances."""
    root = np.sqrt(shares)
    return np.sqrt(((root[:, None] - root[None]) ** 2).sum(axis=-1) / 2).round(6)


def _by_step(distance: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """[V, steps]: mean distance of each view from the two views that are so many steps away, left and right."""
    view, count = np.arange(len(distance))[:, None], len(distance)
    return (distance[view, (view + steps) % count] + distance[view, (view - steps) % count]) / 2
