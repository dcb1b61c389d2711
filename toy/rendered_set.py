# SPDX-License-Identifier: Apache-2.0
"""The finite set of images that the ideal prior knows: views of an object, their poses and view words.

Only azimuths 0..180 degrees are rendered: objects are mirror-symmetric about x = 0, so the view from -phi is the mirror
image of the view from phi, and whoever uses the set takes every image twice, as it is and flipped. The background is
white: with random backgrounds in the set, haze of any colour around an object counted as background and stayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toy.captions import Spec
from toy.compose import compose
from toy.objects import SIDES_ALIKE
from toy.raycast import View, render_gbuffers

SECTORS_DEG: dict[str, tuple[float, float]] = {"front": (0.0, 45.0), "side": (45.0, 135.0), "back": (135.0, 180.0)}
"""View word -> range of |azimuth| where it is the right one."""
OVERLAP_DEG = 15.0
"""So far beyond its sector a word's images reach, as people's words do. Not those of SIDES_ALIKE: a cube with
an edge towards the camera would be a front view too, and each camera would choose between the two for itself."""


@dataclass(frozen=True)
class PoseRanges:
    """What the cameras of a run cover; angles in degrees, fov in radians."""

    radius: tuple[float, float] = (3.5, 3.5)
    theta_deg: tuple[float, float] = (45.0, 105.0)
    fov_rad: tuple[float, float] = (0.36, 0.36)


@dataclass(frozen=True)
class RenderedSet:
    """n images [n, 3, H, W] float32 in [-1, 1] on white; of each |azimuth| and its words' overlap in degrees."""

    images: np.ndarray
    azimuth_deg: np.ndarray
    overlap_deg: np.ndarray

    def members(self, view_word: str | None) -> np.ndarray:
        """Weights [n] that sum to 1: uniform over the images that the view word describes (None: over all)."""
        chosen = np.ones(len(self.azimuth_deg), bool)
        if view_word is not None:
            low, high = SECTORS_DEG[view_word]
            chosen = (self.azimuth_deg >= low - self.overlap_deg) & (self.azimuth_deg <= high + self.overlap_deg)
        if not chosen.any():
            raise ValueError(f"None of {len(chosen)} images is a {view_word} view; render more images.")
        return chosen / chosen.sum()


def spread_views(ranges: PoseRanges, count: int, offset: int = 0) -> list[View]:
    """`count` poses that fill azimuth [0, 180] x theta x radius x fov evenly (additive recurrence, no randomness)."""
    root = 1.0
    for _ in range(40):  # the generalised golden ratio of 4 dimensions: root^5 = root + 1
        root = (1 + root) ** (1 / 5)
    steps = root ** -np.arange(1.0, 5.0)
    u = (0.5 + np.arange(offset, offset + count)[:, None] * steps) % 1.0  # [count, 4]
    low, high = np.array([(0.0, 180.0), ranges.theta_deg, ranges.radius, ranges.fov_rad]).T
    poses = low + (high - low) * u
    return [View(theta_deg=p[1], phi_deg=p[0], radius=p[2], fov_rad=p[3]) for p in poses]


def render_set(
    specs: Sequence[Spec], ranges: PoseRanges, size_px: int, views_per_spec: int, workers: int = 2
) -> RenderedSet:
    """Renders `views_per_spec` images of every spec, on `workers` threads."""
    images, azimuths = np.empty((len(specs), views_per_spec, 3, size_px, size_px), np.float32), []
    for number, spec in enumerate(specs):
        views = spread_views(ranges, views_per_spec, offset=number * views_per_spec)
        gbuffers = render_gbuffers(spec.class_name, views, size_px, workers=workers)
        for image, gbuffer in zip(images[number], gbuffers):  # one by one: copies of all would be gigabytes
            image[:] = 2 * compose(gbuffer, spec.rgb_a(), spec.rgb_b(), (1, 1, 1)) - 1
        azimuths += [view.phi_deg for view in views]
    overlaps = [0.0 if spec.class_name in SIDES_ALIKE else OVERLAP_DEG for spec in specs]
    return RenderedSet(
        images.reshape(-1, *images.shape[2:]), np.asarray(azimuths), np.repeat(overlaps, views_per_spec)
    )
