# SPDX-License-Identifier: Apache-2.0
"""A lopsided scene that shows every mistake of axes, order or activation; and the camera that turns with it."""

import dataclasses
from pathlib import Path

import torch

from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws

N = 300


def lopsided(sh_degree: int = 0) -> GaussianModel:
    """Flat, differently turned Gaussians of raw quaternions, denser towards one corner."""
    random = Draws(sh_degree).normal
    return GaussianModel.of_parameters(
        {
            "xyz": random(N, 3) * torch.tensor([0.35, 0.2, 0.1]) + torch.tensor([0.1, 0.05, -0.15]),
            "f_dc": random(N, 1, 3) * 0.8,
            "f_rest": random(N, (sh_degree + 1) ** 2 - 1, 3) * 0.15,
            "opacity": random(N, 1) * 1.5 + 1,
            "scaling": random(N, 3) * 0.7 - 3,
            "rotation": random(N, 4) * 2,
        }
    )


def run_folder(folder: Path, sh_degree: int = 0) -> Path:
    """As LucidDreamer leaves one: clouds and nothing else that matters."""
    for iteration in (5, 10):
        lopsided(sh_degree).save_ply(folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply")
    return folder


def turned_camera(camera: RCamera, turn: torch.Tensor) -> RCamera:
    """Sees a scene turned by `turn` as `camera` sees the scene. Row vectors: x @ turn.T is the turned x."""
    block = torch.eye(4)
    block[:3, :3] = turn
    return dataclasses.replace(
        camera,
        world_view_transform=block @ camera.world_view_transform,
        full_proj_transform=block @ camera.full_proj_transform,
        camera_center=turn @ camera.camera_center,
    )
