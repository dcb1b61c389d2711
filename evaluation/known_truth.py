# SPDX-License-Identifier: Apache-2.0
"""Scores of a run against the toy world's ground truth; toy/scoring.py says what they mean."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arguments import GenerateCamParams, PipelineParams
from evaluation.run_folder import config_of_run, gaussians_of_run, last_point_cloud
from gaussian_renderer import render
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from toy.captions import Spec
from toy.raycast import View
from toy.reading import parse_prompt, read_prompt
from toy.scoring import score_object
from toy.truth import Images, Renderer

logger = logging.getLogger(__name__)

SIZE_PX = 128


def renderer_of_gaussians(gaussians: GaussianModel) -> Renderer:
    """The cloud as something to be looked at, on white."""
    device = gaussians.get_xyz.device
    white, pipe = torch.ones(3, device=device), PipelineParams()

    @torch.no_grad()
    def rendered(views: Sequence[View], size_px: int) -> Images:
        images, coverages = [], []
        for view in views:
            camera = camera_at(view.radius, view.theta_deg, view.phi_deg, view.fov_rad, size_px, size_px, device)
            shown = render(camera, gaussians, pipe, white)
            images.append(shown["render"].clamp(0, 1).cpu().numpy())
            coverages.append(1 - shown["alpha"][0].cpu().numpy())
        return np.stack(images), np.stack(coverages)

    return rendered


def score_gaussians(
    gaussians: GaussianModel, spec: Spec, cam_params: GenerateCamParams, size_px: int = SIZE_PX
) -> dict[str, Any]:
    """Scores the Gaussians at default_radius and default_fovy, in images of size_px on white."""
    radius, fov_rad = cam_params.default_radius, cam_params.default_fovy
    return score_object(renderer_of_gaussians(gaussians), spec, radius, fov_rad, size_px)


def score_run(run: Path, size_px: int = SIZE_PX, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Scores of the last saved iteration of a run folder, rendered on `device`, with the prompt and the iteration.

    Raises ValueError for a folder that is no run, and for a prompt that the toy world does not know.
    """
    config = config_of_run(run)
    spec = parse_prompt(config.guidance.text)
    if notice := read_prompt(config.guidance.text).notice:
        logger.warning("%s", notice)
    iteration, gaussians = last_point_cloud(run)[0], gaussians_of_run(run, config, device)
    scores = score_gaussians(gaussians, spec, config.cameras, size_px)
    return {"run": run.name, "prompt": config.guidance.text, "iteration": iteration, "size_px": size_px, **scores}
