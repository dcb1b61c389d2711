# SPDX-License-Identifier: Apache-2.0
"""Size, time and loss of every export of a scene: `python benchmarks/exports.py`, or `--run RUN` for a run of your own.

Without RUN a short run is made. PSNR in dB and IoU of outlines are means over VIEWS views of SIZE_PX px on white,
against the renderer's images of training's own cloud. Files are read by the tests' readers, the mesh is drawn by
their z-buffer. --image writes Gaussians above mesh.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import math
import subprocess
import tempfile
import time
from datetime import UTC, datetime

import numpy as np
import torch

from arguments import PipelineParams
from evaluation.orbits import Orbit, framing, full_turn
from evaluation.run_folder import cloud_of
from export import FORMATS, export
from export.cloud import Y_UP, rotated
from export.mesh import FOV_RAD
from gaussian_renderer import render
from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel
from tests.export.glb_reader import draw, read_glb
from tests.export.readers import READERS
from utils.file_formats import FILE_FORMATS
from utils.image_utils import write_png
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
VIEWS, SIZE_PX, ELEVATION_DEG = 8, 256, 15.0


def short_run(folder: Path, *further: str) -> Path:
    """The quickstart's scene, 600 steps; `further` words of the command line."""
    words = ["--opt", str(ROOT / "configs" / "quickstart.yaml"), "--iterations", "600", "--model_path", str(folder)]
    words += further
    subprocess.run([sys.executable, str(ROOT / "train.py"), *words, "--quiet", "true", "--overwrite"], check=True)
    return folder


@torch.no_grad()
def image(gaussians: GaussianModel, camera: RCamera) -> tuple[np.ndarray, np.ndarray]:
    """Colours [H, W, 3] on white, and where more than half is covered [H, W]."""
    out = render(camera, gaussians, PipelineParams(), torch.ones(3))
    return out["render"].clamp(0, 1).permute(1, 2, 0).numpy(), out["alpha"][0].numpy() < 0.5


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB; infinite for equal images."""
    error = float(((a - b) ** 2).mean())
    return -10 * math.log10(error) if error else math.inf


def drawn_mesh(path: Path, cameras: list[RCamera]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(colours, covered) of a GLB from each camera, unlit."""
    shape = read_glb(path)
    return [draw(shape, (Y_UP @ camera.camera_center).numpy(), FOV_RAD, SIZE_PX) for camera in cameras]


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def loss(format: str, path: Path, cloud: GaussianModel, cameras: list[RCamera]) -> str:
    """What the file's own images have in common with the cloud's."""
    truth = [image(cloud, camera) for camera in cameras]
    if format in READERS or format == "ply":
        found = GaussianModel.from_ply(path) if format == "ply" else READERS[format](path).model()
        again = rotated(found, Y_UP.T)  # to training's axes
        return f"{np.mean([psnr(image(again, camera)[0], true) for camera, (true, _) in zip(cameras, truth)]):.1f}"
    if format != "glb":
        return "-"
    drawn = drawn_mesh(path, cameras)
    quality = np.mean([psnr(seen, true) for (seen, _), (true, _) in zip(drawn, truth)])
    outline = np.mean([intersection_over_union(covered, solid) for (_, covered), (_, solid) in zip(drawn, truth)])
    return f"{quality:.1f}, IoU {outline:.3f}"


def write_sheet(out: Path, path: Path, cloud: GaussianModel, cameras: list[RCamera]) -> None:
    """The Gaussians above, the mesh below, from each camera."""
    rows = [[image(cloud, camera)[0] for camera in cameras], [seen for seen, _ in drawn_mesh(path, cameras)]]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    write_png(out, np.round(sheet * 255).astype(np.uint8))


@program.refuses("exports", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder or .ply file (default: a run of 600 steps is made)")
    parser.add_argument("--image", type=Path, help="write Gaussians above mesh as a PNG")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run = args.run or short_run(Path(folder) / "run")
        cloud = GaussianModel.from_ply(cloud_of(run))
        seen = framing([cloud])
        orbit = Orbit(SIZE_PX, SIZE_PX, FOV_RAD, ELEVATION_DEG, seen.distance(FOV_RAD))
        cameras = full_turn(torch.zeros(3), orbit, VIEWS)  # the mesh is drawn looking at the origin
        print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {len(cloud.get_xyz):,} Gaussians, ", end="")
        print(f"SH degree {cloud.max_sh_degree}\n\n| format | kB | s | PSNR |\n|---|---|---|---|")
        for format in FORMATS:
            start = time.perf_counter()
            path = export(run, format, Path(folder) / f"scene{FILE_FORMATS[format].suffix}")
            took_s = time.perf_counter() - start
            quality = loss(format, path, cloud, cameras)
            print(f"| {format} | {path.stat().st_size / 1e3:.0f} | {took_s:.1f} | {quality} |")
        if args.image is not None:
            write_sheet(args.image, Path(folder) / "scene.glb", cloud, cameras[::2])


if __name__ == "__main__":
    program.run(main)
