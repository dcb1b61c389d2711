# SPDX-License-Identifier: Apache-2.0
"""Scores a run against the toy world's ground truth from 24 views: python tools/score_toy.py RUN [--json out.json]

RUN is a run folder (config.yaml, point_cloud/iteration_K/point_cloud.ply; the last iteration is taken). The prompt in
its config.yaml says what the truth is; guidance/toy/scoring.py says what the scores mean.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from arguments import Config, GenerateCamParams, PipelineParams
from arguments.load import load_config
from gaussian_renderer import render
from guidance.toy.captions import Spec, parse_prompt
from guidance.toy.scoring import AZIMUTHS_DEG, JANUS_THRESHOLD, score_pictures, scored_views
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel

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
    """Scores of the last saved iteration of a run folder, with the prompt and the iteration."""
    config = config_of_run(run)
    iteration, path = last_point_cloud(run)
    gaussians = GaussianModel(config.model.sh_degree, "cpu")
    gaussians.load_ply(path)
    gaussians.active_sh_degree = gaussians.max_sh_degree
    scores = score_gaussians(gaussians, parse_prompt(config.guidance.text), config.cameras, size_px)
    return {"run": run.name, "prompt": config.guidance.text, "iteration": iteration, "size_px": size_px, **scores}


def config_of_run(run: Path) -> Config:
    """The resolved settings that the run wrote; ValueError if the folder is not a run."""
    path = run / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run} holds no config.yaml, so it is no run folder; give the folder that train.py wrote.")
    return load_config(["--opt", str(path)])


def last_point_cloud(run: Path) -> tuple[int, Path]:
    """(iteration, path) of the latest saved point cloud; ValueError if there is none."""
    found = [
        (int(match.group(1)), path)
        for path in run.glob("point_cloud/iteration_*/point_cloud.ply")
        if (match := re.fullmatch(r"iteration_(\d+)", path.parent.name))
    ]
    if not found:
        raise ValueError(f"{run} holds no point_cloud/iteration_K/point_cloud.ply; let the run finish or save first.")
    return max(found)


def table(scores: dict[str, Any]) -> str:
    """The scores as text for people."""
    lines = [f"{scores['prompt']}  (iteration {scores['iteration']}, 24 views of {scores['size_px']} px)"]
    for name, unit in (("psnr", " dB"), ("ssim", ""), ("iou", ""), ("detail", "")):
        lines.append(f"  {name:<10} {scores[name]:8.3f}{unit}")
    turned = f"turned by {scores['turn_deg']} deg: psnr {scores['psnr_turned']:.3f} dB"
    lines.append(f"  {turned}, detail {scores['detail_turned']:.3f}")
    if scores["face"] is None:
        return "\n".join([*lines, "  face       -  (this object looks alike from front and back)"])
    lines.append(f"  {'face':<10} {scores['face']:8.3f}, margin {scores['face_margin']:.3f}")
    lines.append("  azimuth    " + " ".join(f"{azimuth:6d}" for azimuth in AZIMUTHS_DEG))
    lines.append("  front face " + " ".join(f"{value:6.2f}" for value in scores["face_by_azimuth"]))
    lines.append(f"  janus      {scores['janus_count']} of 8 azimuths show the front (>= {JANUS_THRESHOLD}; right: 1)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--size", type=int, default=SIZE_PX, help="side of the scored pictures in pixels")
    args = parser.parse_args(argv)
    try:
        scores = score_run(args.run, args.size)
    except ValueError as problem:
        print(f"score_toy: {problem}", file=sys.stderr)
        return 2
    print(table(scores))
    if args.json is not None:
        args.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
