# SPDX-License-Identifier: Apache-2.0
"""A scene that is fitted to nothing, and a run folder that holds it."""

from pathlib import Path

import torch

from scene.gaussian_model import GaussianModel
from tests.drawn import Draws

CONFIG = """
ModelParams: {sh_degree: 0}
GenerateCamParams: {default_fovy: 0.36}
GuidanceParams: {guidance: ideal, text: a red sphere with red stripe}
"""


def red_ball() -> GaussianModel:
    """One opaque, almost sharp-edged red blob of radius 0.5: many concentric Gaussians on a sphere's surface."""
    points = Draws(0).directions(3000, 3) * 0.46
    gaussians = GaussianModel(0, "cpu")
    red = (torch.tensor([0.9, 0.16, 0.16]) * 0.7 - 0.5) / 0.28209479
    gaussians._set_parameters(
        {
            "xyz": points,
            "f_dc": red.expand(3000, 1, 3).clone(),
            "f_rest": torch.zeros(3000, 0, 3),
            "opacity": torch.full((3000, 1), 3.0),
            "scaling": torch.full((3000, 3), -4.0),
            "rotation": torch.tensor([1.0, 0, 0, 0]).repeat(3000, 1),
        }
    )
    return gaussians


def write_run(folder: Path, iterations=(5, 10)) -> Path:
    """config.yaml and the ball's clouds; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    for iteration in iterations:
        red_ball().save_ply(folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply")
    return folder
