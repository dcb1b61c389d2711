# SPDX-License-Identifier: Apache-2.0
"""Scenes of known truth for the toy world's yardstick: right ones, and ones with several fronts or none.

"fitted" scenes are Gaussians fitted to the scene's images, all others are the images themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from arguments import PipelineParams
from gaussian_renderer import render
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from toy import fronts
from toy.raycast import View
from toy.truth import Images, Renderer

RADIUS, FOV_RAD = 3.5, 0.40
Azimuths = Callable[[float], float]


def nearest(*centres_deg: float) -> Azimuths:
    """Fronts at these azimuths: each is looked at as if it were alone."""

    def shown(azimuth_deg: float) -> float:
        return min(((azimuth_deg - centre + 180) % 360 - 180 for centre in centres_deg), key=abs)

    return shown


@dataclass(frozen=True)
class Kind:
    """A scene shows at an azimuth what the truth shows at shown(azimuth).

    `right`: None where it can be argued; `fronts`: separate ones, if it has such; `ghost`: how much of the truth's own
    image at the azimuth is blended in.
    """

    shown: Azimuths
    right: bool | None = False
    fronts: int | None = None
    ghost: float = 0.0

    def of(self, truth: Renderer) -> Renderer:
        """The scene."""

        def rendered(views: Sequence[View], size_px: int) -> Images:
            pairs = zip(remapped(truth, self.shown)(views, size_px), truth(views, size_px))
            images, coverages = ((1 - self.ghost) * scene + self.ghost * own for scene, own in pairs)
            return images, coverages

        return rendered


KINDS: dict[str, Kind] = {
    "right": Kind(lambda azimuth: azimuth, right=True, fronts=1),
    "two fronts, 180 apart": Kind(nearest(0, 180), fronts=2),
    "two fronts, 120 apart": Kind(nearest(0, 120), fronts=2),
    "two fronts, 90 apart": Kind(nearest(0, 90), fronts=2),
    "three fronts": Kind(nearest(0, 120, 240), fronts=3),
    "four fronts": Kind(nearest(0, 90, 180, 270), fronts=4),
    "two squeezed objects": Kind(lambda azimuth: 2 * azimuth, fronts=2),
    "three squeezed objects": Kind(lambda azimuth: 3 * azimuth, fronts=3),
    "front all round": Kind(lambda azimuth: 0),
    "back all round": Kind(lambda azimuth: 180, fronts=0),
    "two backs": Kind(lambda azimuth: 180 - nearest(0, 180)(azimuth), fronts=0),
    "side all round": Kind(lambda azimuth: 90, fronts=0),
    "a second front of 70 % contrast": Kind(nearest(0, 180), fronts=2, ghost=0.3),
    "a second front of 50 % contrast": Kind(nearest(0, 180), right=None, ghost=0.5),
    "a second front of 30 % contrast": Kind(nearest(0, 180), right=None, ghost=0.7),
}
FITTED = ("right", "two fronts, 180 apart", "two fronts, 90 apart", "three fronts", "front all round", "two backs")
BLURS = (0.0, 0.01, 0.02, 0.03, 0.04)


def remapped(base: Renderer, shown: Azimuths) -> Renderer:
    """Shows at each azimuth what `base` shows at shown(azimuth)."""

    def rendered(views: Sequence[View], size_px: int) -> Images:
        return base([replace(view, phi_deg=shown(view.phi_deg) % 360) for view in views], size_px)

    return rendered


def at_yaw(base: Renderer, yaw_deg: float) -> Renderer:
    """The object turned: its front is at azimuth yaw_deg."""
    return remapped(base, lambda azimuth: azimuth - yaw_deg)


def degraded(base: Renderer, blur: float, gain: float = 1.0, noise: float = 0.0) -> Renderer:
    """Blurred (std as a share of the side), then contrast times `gain`, then white noise of std `noise` in [0, 1]."""

    def rendered(views: Sequence[View], size_px: int) -> Images:
        images, coverages = base(views, size_px)
        images, coverages = fronts.blurred(images, blur), fronts.blurred(coverages[:, None], blur)[:, 0]
        drawn = np.random.default_rng(0).normal(0, noise, images.shape) if noise else 0
        return (0.5 + gain * (images - 0.5) + drawn).clip(0, 1).astype(np.float32), coverages

    return rendered


def fitted(base: Renderer, seed: int, steps: int = 250, points: int = 1200) -> GaussianModel:
    """Gaussians that look like `base` from elevations -10 to 40 degrees: a cloud as a good run would leave it."""
    rng = np.random.default_rng(seed)
    side_px = fronts.SIDE_PX
    views = [View(90.0 - e, float(a), RADIUS, FOV_RAD) for e in (-10, 15, 40) for a in range(0, 360, 10)]
    images = torch.from_numpy(base(views, side_px)[0])
    cloud = _random_cloud(points, rng)
    rates = {"xyz": 0.006, "f_dc": 0.04, "opacity": 0.1, "scaling": 0.02, "rotation": 0.01, "f_rest": 0.0}
    values = cloud.parameters_in_order()
    optimizer = torch.optim.Adam([{"params": [values[name]], "lr": rate} for name, rate in rates.items() if rate])
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] *= 0.1 ** (1 / steps)
        loss = torch.zeros(())
        for chosen in rng.integers(len(views), size=2):
            view = views[chosen]
            camera = camera_at(RADIUS, view.theta_deg, view.phi_deg, FOV_RAD, side_px, side_px, torch.device("cpu"))
            seen = render(camera, cloud, PipelineParams(), torch.ones(3))["render"]
            loss = loss + (seen - images[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cloud


def _random_cloud(points: int, rng: np.random.Generator) -> GaussianModel:
    directions = rng.normal(size=(points, 3))
    radii = 0.55 * rng.random((points, 1)) ** (1 / 3)
    xyz = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii
    values = {
        "xyz": torch.from_numpy(xyz).float(),
        "f_dc": torch.zeros(points, 1, 3),
        "f_rest": torch.zeros(points, 0, 3),
        "opacity": torch.full((points, 1), -1.0),
        "scaling": torch.full((points, 3), -3.2),
        "rotation": torch.tensor([1.0, 0, 0, 0]).repeat(points, 1),
    }
    return GaussianModel.of_parameters(values)
