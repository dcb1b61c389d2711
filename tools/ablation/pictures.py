# SPDX-License-Identifier: Apache-2.0
"""The scenes of an ablation, a row each, from eight sides: what the scores are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from arguments import PipelineParams
from evaluation.run_folder import config_of_run, gaussians_of_run
from gaussian_renderer import render
from guidance.toy.scoring import AZIMUTHS_DEG
from scene.dataset_readers import camera_at
from tools.ablation.grid import Run

THETA_DEG = 80  # 10 degrees above the horizon
LABEL_PX = 150


def sheet(out: Path, runs: Sequence[Run], side_px: int) -> np.ndarray:
    """RGB uint8 [runs side_px, LABEL_PX + 8 side_px, 3] of the runs whose scene is in `out`; ValueError for none."""
    there = [run for run in runs if _has(out, run)]
    rows = [np.hstack([_label(run, side_px), _views(out / "runs" / run.name, side_px)]) for run in there]
    if not rows:
        raise ValueError(f"{out} holds no scene of these runs; run them first")
    return np.vstack(rows)


def _has(out: Path, run: Run) -> bool:
    return (out / f"{run.name}.json").is_file() and any((out / "runs" / run.name).glob("point_cloud/*/*.ply"))


@torch.no_grad()
def _views(folder: Path, side_px: int) -> np.ndarray:
    config = config_of_run(folder)
    gaussians = gaussians_of_run(folder, config)
    radius, fov_rad = config.cameras.default_radius, config.cameras.default_fovy
    pictures = []
    for azimuth in AZIMUTHS_DEG:
        camera = camera_at(radius, THETA_DEG, azimuth, fov_rad, side_px, side_px, torch.device("cpu"))
        image = render(camera, gaussians, PipelineParams(), torch.ones(3))["render"].clamp(0, 1)
        pictures.append((255 * image.permute(1, 2, 0)).round().byte().numpy())
    return np.hstack(pictures)


def _label(run: Run, side_px: int) -> np.ndarray:
    page = np.full((side_px, LABEL_PX, 3), 255, np.uint8)
    for line, text in enumerate((run.variant, f"{run.prior}, {run.words} words", f"seed {run.seed}")):
        at = (4, side_px // 2 - 12 + 18 * line)
        cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return page
