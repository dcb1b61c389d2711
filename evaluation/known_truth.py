# SPDX-License-Identifier: Apache-2.0
"""Scores of a run against the toy world's ground truth; guidance/toy/scoring.py says what they mean."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arguments import GenerateCamParams, PipelineParams
from evaluation.run_folder import config_of_run, gaussians_of_run, last_point_cloud
from gaussian_renderer import render
from guidance.toy.captions import Spec
from guidance.toy.reading import parse_prompt, read_prompt
from guidance.toy.scoring import score_pictures, scored_views
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel

logger = logging.getLogger(__name__)

SIZE_PX = 128


@torch.no_grad()
def score_gaussians(
    gaussians: GaussianModel, spec: Spec, cam_params: GenerateCamParams, size_px: int = SIZE_PX
) -> dict[str, Any]:
    """Renders the Gaussians from the 24 views at default_radius and default_fovy on white and scores the pictures."""
    radius, fov_rad = cam_params.default_radius, cam_params.default_fovy
    device = gaussians.get_xyz.device
    pictures, coverages = [], []
    for view in scored_views(radius, fov_rad):
        camera = camera_at(radius, view.theta_deg, view.phi_deg, fov_rad, size_px, size_px, device)
        shown = render(camera, gaussians, PipelineParams(), torch.ones(3, device=device))
        pictures.append(shown["render"].clamp(0, 1).cpu().numpy())
        coverages.append(1 - shown["alpha"][0].cpu().numpy())
    return score_pictures(np.stack(pictures), np.stack(coverages), spec, radius, fov_rad)


def score_run(run: Path, size_px: int = SIZE_PX) -> dict[str, Any]:
    """Scores of the last saved iteration of a run folder, with the prompt and the iteration.

    Raises ValueError for a folder that is no run, and for a prompt that the toy world does not know.
    """
    config = config_of_run(run)
    spec = parse_prompt(config.guidance.text)
    if notice := read_prompt(config.guidance.text).notice:
        logger.warning("%s", notice)
    iteration, gaussians = last_point_cloud(run)[0], gaussians_of_run(run, config)
    scores = score_gaussians(gaussians, spec, config.cameras, size_px)
    return {"run": run.name, "prompt": config.guidance.text, "iteration": iteration, "size_px": size_px, **scores}
