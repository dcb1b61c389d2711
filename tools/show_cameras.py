# SPDX-License-Identifier: Apache-2.0
"""What a config's training cameras see of the initial points: python tools/show_cameras.py --out cameras.png --opt FILE

Other flags are train.py's. Two rows: views at the narrowest and at the widest field of view of the config.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import dataclasses
import tempfile

import numpy as np
import torch

from arguments import Config
from arguments.load import load_config
from cograd.regions import RegionGrid
from gaussian_renderer import render
from scene import Scene
from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel
from utils.file_formats import check_out
from utils.image_utils import to_uint8, write_png
from utils.random_streams import RandomStreams


def training_cameras(config: Config, scene: Scene, count: int, streams: RandomStreams) -> list[RCamera]:
    """`count` cameras as training draws them: in random regions with CoGrad on, else from the camera ranges."""
    if not config.cograd.enabled:
        return scene.getPurnTrainCameras(streams, count)
    grid = RegionGrid.from_params(config.cograd)
    poses = grid.sample_poses((streams.rand(count) * len(grid)).long(), streams.torch)
    return scene.cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, streams, poses.cells)


@torch.no_grad()
def camera_sheet(config: Config, columns: int) -> np.ndarray:
    """uint8 [2 H, columns W, 3], dark points on white."""
    streams = RandomStreams(config.seed)
    gaussians = GaussianModel(0, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = dataclasses.replace(config.model, model_path=folder)
        scene = Scene(dataclasses.replace(config, model=model), gaussians, streams, "cpu")
    rows = []
    for fov_rad in config.cameras.fovy_range:
        scene.ranges = dataclasses.replace(scene.ranges, fovy_rad=(fov_rad, fov_rad))
        cameras = training_cameras(config, scene, columns, streams)
        shown = [render(camera, gaussians, config.pipeline, torch.ones(3))["render"] for camera in cameras]
        rows.append(np.concatenate([np.pad(to_uint8(image), ((1, 1), (1, 1), (0, 0))) for image in shown], axis=1))
    return np.concatenate(rows)


@program.refuses("show_cameras", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8, help="views in a row")
    args, words = parser.parse_known_args(argv)
    check_out(args.out, "png")
    program.check_bounds(args, {"columns": (1, 1000)})
    write_png(args.out, camera_sheet(load_config(words), args.columns))
    return 0


if __name__ == "__main__":
    program.run(main)
