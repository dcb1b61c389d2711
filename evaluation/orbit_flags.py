# SPDX-License-Identifier: Apache-2.0
"""The flags that turntable.py and side_by_side.py share, and the frames that they ask for.

Frames are uint8 [H, W, 3] RGB.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation.orbits import Orbit, colour_of, framing, full_turn, render_images
from evaluation.run_folder import cloud_of
from scene.gaussian_model import GaussianModel
from utils import program
from utils.device import resolve_device

SIZES_PX = (16, 4096)
"""Sides of an image that is looked at or scored: below, no detail is left; above, it is a mistake."""
BOUNDS = {
    "frames": (1, 100_000),
    "fps": (1, 240),
    "size_px": SIZES_PX,
    "elevation_deg": (-89.0, 89.0),
    "fov_deg": (1.0, 150.0),
    "radius": (1e-6, 1e6),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Size, frames, camera and background of a full turn."""
    parser.add_argument("--size_px", type=int, default=512, help="side of the square image (%(default)s)")
    parser.add_argument("--frames", type=int, default=120, help="frames of one turn (%(default)s)")
    parser.add_argument("--fps", type=int, default=30, help="frames a second (%(default)s)")
    parser.add_argument("--elevation_deg", type=float, default=15.0, help="camera above the horizon (%(default)s)")
    parser.add_argument("--fov_deg", type=float, default=35.0, help="field of view (%(default)s)")
    parser.add_argument("--radius", type=float, help="camera's distance from the middle (default: all is seen)")
    parser.add_argument("--background", default="white", help="white, black, grey or #rrggbb (%(default)s)")
    parser.add_argument("--iteration", type=int, help="which cloud of a run folder (default: the last)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N: where images are rendered")


def check_size(flag: str, size_px: int) -> None:
    """Raises ValueError, one sentence, for a side of an image that is out of SIZES_PX."""
    least, most = SIZES_PX
    if not least <= size_px <= most:
        raise ValueError(f"{flag} {size_px}: expected a number of pixels from {least} to {most}")


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError, one sentence, for a value out of its bounds."""
    program.check_bounds(args, BOUNDS)
    colour_of(args.background)
    resolve_device(args.device)


def load(paths: Sequence[Path], args: argparse.Namespace) -> list[GaussianModel]:
    """The cloud of each run folder or .ply file. Raises ValueError, one sentence."""
    device = resolve_device(args.device)
    return [GaussianModel.from_ply(cloud_of(path, args.iteration), device) for path in paths]


def turns(clouds: Sequence[GaussianModel], args: argparse.Namespace) -> Iterator[list[np.ndarray]]:
    """Frame after frame of one turn, each a list with an image of every cloud, all from the same camera."""
    seen, fov_rad = framing(clouds), math.radians(args.fov_deg)
    orbit = Orbit(args.size_px, args.size_px, fov_rad, args.elevation_deg, args.radius or seen.distance(fov_rad))
    cameras, background = full_turn(seen.centre, orbit, args.frames), torch.tensor(colour_of(args.background))
    for frame in zip(*(render_images(cloud, cameras, background) for cloud in clouds)):
        yield list(frame)
