# SPDX-License-Identifier: Apache-2.0
"""Rows of evenly spaced views as one image: `python tools/contact_sheet.py SOURCE... --out sheet.png`.

A SOURCE is a video, or a .ply file or run folder, of which a full turn is drawn. --frames columns, each a square.
One SOURCE may be a folder of tools/ablate_toy.py: its first --seeds are drawn, unpicked, with their scores.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse

import cv2
import numpy as np
import torch

from evaluation.ablation.report import first_seeds, sheet
from evaluation.ablation.staircase import compared
from evaluation.experiments.runs import read_folder
from evaluation.orbit_flags import check_size
from evaluation.orbits import Orbit, framing, full_turn, render_images
from evaluation.run_folder import cloud_of
from scene.gaussian_model import GaussianModel
from utils.file_formats import check_out, is_scene
from utils.image_utils import write_png
from utils.video import read_video

FOV_RAD, ELEVATION_DEG = 0.6, 15.0


def contact_sheet(videos: list[np.ndarray], count: int, side_px: int) -> np.ndarray:
    """Videos, uint8 [F, H, W, 3] each, to an image [len(videos) side_px, count side_px, 3]."""
    rows = [
        [cv2.resize(frame, (side_px, side_px), interpolation=cv2.INTER_AREA) for frame in video[frames]]
        for video in videos
        for frames in [np.arange(count) * len(video) // count]
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def frames_of(source: Path, count: int, side_px: int) -> np.ndarray:
    """uint8 [F, H, W, 3]: a video's frames, or `count` images of one turn around a cloud. Raises ValueError."""
    if source.is_file() and not is_scene(source):
        return read_video(source)
    cloud = GaussianModel.from_ply(cloud_of(source))
    seen = framing([cloud])
    orbit = Orbit(side_px, side_px, FOV_RAD, ELEVATION_DEG, seen.distance(FOV_RAD))
    return np.stack(list(render_images(cloud, full_turn(seen.centre, orbit, count), torch.ones(3))))


@program.refuses("contact_sheet", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE")
    parser.add_argument("--frames", type=int, default=8, help="columns (default 8)")
    parser.add_argument("--side_px", type=int, default=128, help="side of a frame (default 128)")
    parser.add_argument("--seeds", type=int, default=2, help="of an ablation's folder (default 2)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    program.check_bounds(args, {"frames": (1, 100), "seeds": (1, 1000)})
    check_size("--side_px", args.side_px)
    check_out(args.out, "png")
    drawn = _drawn(args)
    write_png(args.out, drawn)
    return 0


def _drawn(args: argparse.Namespace) -> np.ndarray:
    ablation = args.sources[0]
    if len(args.sources) == 1 and (ablation / "clouds").is_dir():
        found = read_folder(ablation)
        return sheet(ablation, first_seeds(compared(found) or found, args.seeds), args.side_px, args.frames)
    rows = [frames_of(path, args.frames, args.side_px) for path in args.sources]
    return contact_sheet(rows, args.frames, args.side_px)


if __name__ == "__main__":
    program.run(main)
