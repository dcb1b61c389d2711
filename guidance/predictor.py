# SPDX-License-Identifier: Apache-2.0
"""A model q of the run's own renders, as VSD and ESD train one beside the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scene.cameras import RCamera, spherical
from utils.shard import Shard


@dataclass(frozen=True)
class Cameras:
    """Where B views look from, on the CPU; mirrored ones where `flip` is."""

    azimuth_deg: Tensor  # [B], 0 in front
    polar_deg: Tensor  # [B], from +z
    radius: Tensor  # [B]
    to_world: Tensor  # [B,4,4] camera-to-world; columns: image right, image down, viewing direction, centre

    def __len__(self) -> int:
        return len(self.azimuth_deg)

    def of(self, shard: Shard) -> Cameras:
        """Those of one process."""
        return Cameras(*(shard.of(values) for values in vars(self).values()))

    def mirrored(self, flip: Tensor) -> Cameras:
        """Where flip [1] is true, those that see the scene's mirror image, left and right exchanged, as a mirrored view
        shows it: azimuths change their sign. On flip's device, which is not waited for.
        """
        sign = torch.where(flip, -1.0, 1.0).double()  # [1]
        across = torch.cat([sign, sign.new_ones(3)])  # of the world's x and of the image's
        azimuth_deg, polar_deg, radius, to_world = (
            values.to(flip.device, non_blocking=True) for values in vars(self).values()
        )
        return Cameras(sign * azimuth_deg, polar_deg, radius, across[:, None] * to_world * across)

    @classmethod
    def of_views(cls, cameras: Sequence[RCamera]) -> Cameras:
        """Those of a step's rendered views."""
        to_world = torch.eye(4, dtype=torch.float64).repeat(len(cameras), 1, 1)
        for matrix, camera in zip(to_world, cameras):
            matrix[:3, :3] = torch.from_numpy(camera.R)
            matrix[:3, 3] = torch.from_numpy(-camera.R @ camera.T)
        places = torch.tensor([spherical(centre) for centre in to_world[:, :3, 3]], dtype=torch.float64)
        azimuth = torch.tensor([float(camera.delta_azimuth) for camera in cameras], dtype=torch.float64)
        return cls(azimuth, places[:, 1], places[:, 0], to_world)

    @classmethod
    def at(cls, azimuth_deg: Sequence[float], polar_deg: float = 90.0, radius: float = 1.0) -> Cameras:
        """Cameras on a circle that look at its middle."""
        azimuth = torch.tensor(azimuth_deg, dtype=torch.float64)
        polar, radii = torch.full_like(azimuth, polar_deg), torch.full_like(azimuth, radius)
        phi, theta = azimuth.deg2rad(), polar.deg2rad()
        outward = torch.stack([theta.sin() * phi.sin(), theta.sin() * phi.cos(), theta.cos()], dim=1)
        to_world = torch.eye(4, dtype=torch.float64).repeat(len(azimuth), 1, 1)
        to_world[:, :3, 2], to_world[:, :3, 3] = -outward, radii[:, None] * outward
        right = torch.stack([-phi.cos(), phi.sin(), torch.zeros_like(phi)], dim=1)
        to_world[:, :3, 0], to_world[:, :3, 1] = right, torch.linalg.cross(-outward, right)
        return cls(azimuth, polar, radii, to_world)


class Predictor(Protocol):
    """q of one run. All processes of a run observe the same views, and so hold the same q.

    A prior makes it: `new_predictor(prompts, seed)`; what it lacks is reported before the run (guidance.law_checks).
    """

    def predict_noise(self, x_t: Tensor, t: Tensor, cameras: Cameras | None) -> Tensor | None:
        """The noise prediction for x_t [B,C,h,w] at timesteps t [B]; None before anything was observed.

        cameras: of the views; None: the prediction that no camera conditions.
        """

    def observe(self, x: Tensor, cameras: Cameras) -> None:
        """All views' clean latents [B,C,h,w] of a step, detached: trains q, or remembers them."""

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, random numbers: what later predictions depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; an empty one starts again."""
