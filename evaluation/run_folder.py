# SPDX-License-Identifier: Apache-2.0
"""A finished run folder: its settings, its last cloud, and images of it from an orbit.

V images, uint8 [V, H, W, 3] RGB on the run's own background.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arguments import Config
from arguments.load import load_config
from arguments.yaml_file import read_yaml
from distillation import is_law_file
from evaluation import METRICS, Metric, load_metric, over_views
from scene.dataset_readers import circle_cameras
from scene.gaussian_model import GaussianModel
from trainer.outputs import turntable
from trainer.run_records import read_object
from utils.file_formats import XZ, check_is_read, without_xz


def config_of_run(run: Path) -> Config:
    """The resolved settings that the run wrote; ValueError if the folder is not a run.

    A law of a file is left out: no number here needs it, and a settings file may not have it run.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run} holds no config.yaml, so it is no run folder; give the folder that train.py wrote.")
    group = read_yaml(str(path))[0].get("GuidanceParams")
    law = group.get("distillation") if isinstance(group, dict) else None
    without = ["--distillation", "auto"] if isinstance(law, str) and is_law_file(law) else []
    return load_config(["--opt", str(path), *without])


def point_clouds(run: Path) -> dict[int, Path]:
    """Iteration -> path of each saved point cloud, compressed or not, the latest last; ValueError if there is none."""
    found = {
        int(match.group(1)): path
        for name in (f"point_cloud.ply{XZ}", "point_cloud.ply")  # where both are, the plain one is the newer
        for path in run.glob(f"point_cloud/iteration_*/{name}")
        if (match := re.fullmatch(r"iteration_(\d+)", path.parent.name))
    }
    if not found:
        raise ValueError(f"{run} holds no point_cloud/iteration_K/point_cloud.ply; let the run finish or save first.")
    return dict(sorted(found.items()))


def is_saved_cloud(path: Path) -> bool:
    """Whether `path` is where a run, any run, keeps a point cloud, plain or compressed."""
    path = without_xz(path.resolve())
    folder = path.parent
    in_place = folder.parent.name == "point_cloud" and re.fullmatch(r"iteration_\d+", folder.name)
    return path.name == "point_cloud.ply" and bool(in_place)


def record_of_run(run: Path) -> dict[str, Any]:
    """What made it, from run.json: revision, device, versions and more; empty where there is none.

    Raises ValueError, one sentence, for a file that is no record.
    """
    path = run / "run.json"
    return read_object(path) if path.is_file() else {}


def last_point_cloud(run: Path) -> tuple[int, Path]:
    """(iteration, path) of the latest saved point cloud; ValueError if there is none."""
    return list(point_clouds(run).items())[-1]


def cloud_of(path: Path, iteration: int | None = None) -> Path:
    """The PLY file that `path` names: itself, or a run folder's last cloud, or that of `iteration`.

    A run folder is this program's or LucidDreamer's. Raises ValueError, one sentence.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a run folder or a .ply file.")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is neither a file nor a folder; give a run folder or a .ply file.")
    if path.is_file():
        check_is_read(path)
    if path.is_file() and iteration is None:
        return path
    if path.is_file():
        raise ValueError(f"{path} is one cloud, and iteration {iteration} was asked for; give its run folder.")
    clouds = point_clouds(path)
    if iteration is not None and iteration not in clouds:
        saved = ", ".join(map(str, clouds))
        raise ValueError(f"{path} holds no cloud of iteration {iteration}; it holds those of {saved}.")
    return clouds[max(clouds) if iteration is None else iteration]


def gaussians_of_run(run: Path, config: Config, device: str | torch.device = "cpu") -> GaussianModel:
    """The last saved cloud, with every SH degree active. Raises ValueError."""
    gaussians = GaussianModel(config.model.sh_degree, device)
    gaussians.load_ply(last_point_cloud(run)[1])
    return gaussians


def orbit(gaussians: GaussianModel, config: Config, count: int, size_px: int = 0) -> np.ndarray:
    """`count` images from a circle around the object at the run's default pose; azimuth 0, the front, comes first.

    `size_px` 0: the size of the run's own test views.
    """
    params = replace(config.cameras, view_px=size_px or config.cameras.view_px)
    cameras = circle_cameras(params, count, gaussians.get_xyz.device)
    return np.stack([rgb for rgb, _ in turntable(gaussians, cameras, config)])


def score_runs(
    name: str, runs: Sequence[Path], device: torch.device, weights: Path | None
) -> Iterator[dict[str, float]]:
    """`score_scene` of each run; the metric is in memory until the last. Raises MetricUnavailable and ValueError."""
    metric = load_metric(name, device, weights)
    for run in runs:
        yield score_scene(run, name, metric, device)


def score_scene(run: Path, name: str, metric: Metric, device: torch.device) -> dict[str, float]:
    """Mean and standard deviation of one metric over its views of one run. Raises ValueError."""
    config = config_of_run(run)
    images = orbit(gaussians_of_run(run, config, device), config, METRICS[name].views)
    return over_views(metric(images, config.guidance.text))
