# SPDX-License-Identifier: Apache-2.0
"""Clouds of scored runs, kept small, so that a change of the scores never costs the runs again.

FOLDER/clouds/NAME/ITERATION.npz holds the raw parameters of one snapshot in half precision, and the pose that it is
scored from. The last iteration is the one that is scored. N Gaussians.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.run_folder import config_of_run, point_clouds
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from utils.general_utils import atomic_path


@dataclass(frozen=True)
class Snapshot:
    """A cloud, and radius and field of view that it is looked at with."""

    iteration: int
    cloud: GaussianModel
    radius: float
    fov_rad: float


def folder_of(out: Path, name: str) -> Path:
    """Where the snapshots of a run are."""
    return out / "clouds" / name


def keep(run: Path, kept: Path) -> None:
    """Writes every saved cloud of a run folder to `kept`."""
    cameras = config_of_run(run).cameras
    kept.mkdir(parents=True, exist_ok=True)
    for iteration, path in point_clouds(run).items():
        gaussians = GaussianModel.from_ply(path)
        values = gaussians.parameters_in_order().items()
        arrays = {name: value.detach().numpy().astype(np.float16) for name, value in values}
        arrays["antialiased"] = np.array(gaussians.antialiased)
        arrays["pose"] = np.array([cameras.default_radius, cameras.default_fovy])
        with atomic_path(kept / f"{iteration:06d}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def snapshots(kept: Path) -> list[Path]:
    """The files of a run's snapshots, the scored one last; none where nothing was kept."""
    return sorted(kept.glob("[0-9]*.npz"))


def load(path: Path) -> Snapshot:
    """One snapshot, in single precision."""
    with np.load(path) as stored:
        values = {name: torch.from_numpy(stored[name].astype(np.float32)) for name in PER_GAUSSIAN}
        radius, fov_rad = (float(number) for number in stored["pose"])
        gaussians = GaussianModel.of_parameters(values)
        gaussians.antialiased = bool(stored["antialiased"])
    return Snapshot(int(path.stem), gaussians, radius, fov_rad)
