# SPDX-License-Identifier: Apache-2.0
"""Cameras around any cloud at a distance at which it fills the image, and the images that they see.

World: z up; azimuth 0 looks from +y. N Gaussians, V cameras.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from arguments import Config
from scene.cameras import RCamera
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from trainer.outputs import turntable

COLOURS = {"white": "#ffffff", "black": "#000000", "grey": "#808080"}
KEPT = 0.99
"""Share of the Gaussians that must fit: a few floaters do not shrink the image."""
MARGIN = 0.05
SOLID_OPACITY = 0.1
NEAREST, FARTHEST = 0.3, 1e6
"""World units. The rasterizer draws nothing nearer than 0.2, where the near side of so near a scene begins."""


@dataclass(frozen=True)
class Framing:
    """The sphere that holds what is to be seen."""

    centre: torch.Tensor  # [3]
    radius: float

    def distance(self, fov_rad: float) -> float:
        """Camera distance at which a field of view holds the sphere, with MARGIN around it.

        Raises ValueError for a scene so small that it stands before the near plane, or so large or so far from the
        origin that single precision loses it.
        """
        distance = (1 + MARGIN) * self.radius / math.sin(fov_rad / 2)
        away = float(self.centre.abs().max())
        if distance < NEAREST or max(distance, away) > FARTHEST:
            size, held = f"{2 * self.radius:.3g} units large", f"{NEAREST} to {FARTHEST:g} units"
            raise ValueError(
                f"the scene is {size} and {away:.3g} from the origin; expected one seen whole from {held} away, "
                "and no farther from the origin: rescale or move it."
            )
        return distance


@torch.no_grad()
def framing(clouds: Sequence[GaussianModel]) -> Framing:
    """The sphere around KEPT of the solid Gaussians of all clouds, each taken as two deviations large.

    Raises ValueError where there is none.
    """
    if not any(len(cloud.get_xyz) for cloud in clouds):
        raise ValueError("the scene has no Gaussians, so there is nothing to show; give one that has some.")
    xyz = torch.cat([cloud.get_xyz for cloud in clouds]).cpu()
    reach = 2 * torch.cat([cloud.get_scaling.amax(dim=1) for cloud in clouds]).cpu()
    solid = torch.cat([cloud.get_opacity[:, 0] for cloud in clouds]).cpu() >= SOLID_OPACITY
    if solid.any():
        xyz, reach = xyz[solid], reach[solid]
    low, high = (np.quantile(xyz.numpy(), share, axis=0) for share in (1 - KEPT, KEPT))
    centre = torch.from_numpy((low + high) / 2).float()
    extent = float(np.quantile((torch.linalg.vector_norm(xyz - centre, dim=1) + reach).numpy(), KEPT))
    return Framing(centre, max(extent, 1e-6))


@dataclass(frozen=True)
class Orbit:
    """Size of the images and vertical field of view; `elevation_deg` above the horizon, distance from the centre."""

    width_px: int
    height_px: int
    fov_rad: float
    elevation_deg: float
    distance: float


def camera_on_orbit(centre: torch.Tensor, orbit: Orbit, azimuth_deg: float) -> RCamera:
    """One camera that looks at `centre` [3]: one that looks at the origin, moved there."""
    theta_deg = 90 - orbit.elevation_deg
    camera = camera_at(orbit.distance, theta_deg, azimuth_deg, orbit.fov_rad, orbit.width_px, orbit.height_px)
    back = torch.eye(4)
    back[3, :3] = -centre
    view = back @ camera.world_view_transform
    return dataclasses.replace(
        camera,
        T=view[3, :3].numpy(),
        world_view_transform=view,
        full_proj_transform=back @ camera.full_proj_transform,
        camera_center=camera.camera_center + centre,
    )


def full_turn(centre: torch.Tensor, orbit: Orbit, count: int) -> list[RCamera]:
    """`count` cameras, evenly spread over one turn; the first is at azimuth 0."""
    return [camera_on_orbit(centre, orbit, 360 * k / count) for k in range(count)]


def render_images(
    gaussians: GaussianModel, cameras: Sequence[RCamera], background: torch.Tensor
) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] of one camera after the other, on `background` [3]; rendered on the Gaussians' device."""
    device = gaussians.get_xyz.device
    for rgb, _ in turntable(gaussians, [camera.to(device) for camera in cameras], Config(), background.to(device)):
        yield rgb


def colour_of(text: str) -> tuple[float, float, float]:
    """white, black, grey or #rrggbb as red, green, blue in 0..1. Raises ValueError."""
    digits = COLOURS.get(text, text)
    if not re.fullmatch("#[0-9a-fA-F]{6}", digits):
        raise ValueError(f"background {text!r}: expected {', '.join(COLOURS)} or #rrggbb, such as #204060.")
    red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return red, green, blue
