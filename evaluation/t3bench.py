# SPDX-License-Identifier: Apache-2.0
"""The quality protocol of T3Bench (He et al. 2023): scores over a sphere, averaged over neighbours, the best counts.

A score of an image and a prompt, ImageReward's there, is taken from 162 directions at five zooms; a direction has the
best of its zooms; three times each direction takes the mean of itself and its neighbours, so that a single lucky view
does not count; the quality is the largest mean. The zooms are ours, ratios of the size of the object in the
image; the protocol's own code and numbers have not been compared. D directions, Z zooms.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from evaluation import Metric
from evaluation.icosphere import icosphere
from evaluation.orbits import Orbit, camera_on_orbit, framing, render_images
from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel

HALVINGS = 2  # 162 directions
ZOOMS = (0.6, 0.8, 1.0, 1.25, 1.5)
"""Size of the object in the image; at 1 it just fits."""
ROUNDS = 3
FOV_RAD = 0.7
POLE_DEG = 0.5
"""A camera exactly above or below has no up direction."""


def quality(scores: np.ndarray, neighbours: Sequence[Sequence[int]], rounds: int = ROUNDS) -> float:
    """From scores [D, Z] and the neighbours of each direction."""
    best = scores.max(axis=1)
    for _ in range(rounds):
        best = np.array([best[[k, *near]].mean() for k, near in enumerate(neighbours)])
    return float(best.max())


def score_scene(gaussians: GaussianModel, prompt: str, metric: Metric, size_px: int) -> np.ndarray:
    """Scores [D, Z], of images of size_px on white."""
    cameras = cameras_of(gaussians, size_px)
    scores = np.empty((len(cameras), len(ZOOMS)))
    white = torch.ones(3)
    for k, own in enumerate(cameras):
        scores[k] = metric(np.stack(list(render_images(gaussians, own, white))), prompt)
    return scores


def cameras_of(gaussians: GaussianModel, size_px: int) -> list[list[RCamera]]:
    """[D][Z] cameras around the object. Raises ValueError for a scene without Gaussians."""
    seen = framing([gaussians])
    distance = seen.distance(FOV_RAD)

    def made(direction: np.ndarray, zoom: float) -> RCamera:
        elevation_deg = math.degrees(math.asin(float(np.clip(direction[2], -1, 1))))
        elevation_deg = min(max(elevation_deg, POLE_DEG - 90), 90 - POLE_DEG)
        fov_rad = 2 * math.atan(math.tan(FOV_RAD / 2) / zoom)
        azimuth_deg = math.degrees(math.atan2(direction[0], direction[1])) % 360
        return camera_on_orbit(seen.centre, Orbit(size_px, size_px, fov_rad, elevation_deg, distance), azimuth_deg)

    return [[made(direction, zoom) for zoom in ZOOMS] for direction in icosphere(HALVINGS)[0]]
