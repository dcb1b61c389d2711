# SPDX-License-Identifier: Apache-2.0
"""How near an exported mesh is to the toy world's true surface: `python benchmarks/mesh.py [RUN ...]`.

RUN: a run folder of a toy-world prompt; without one a short run is made. `--terms FOLDER` compares terms of the loss:
runs of PROMPTS, SEEDS and TERMS, made in FOLDER unless they are there. chamfer: mean of both directions' mean
distances, in thousandths of a unit; normals: mean angle between a point's normal and that of the nearest point of the
other surface, in degrees; both over points seen from VIEWS views all around, the true object turned about the vertical
axis to where the run has put it. PSNR in dB: the mesh, unlit and antialiased as viewers draw it, against the renderer's
images of the Gaussians on white; of an opaque surface with the Gaussians' own outlines and colours, the most that a
mesh can reach, for it has no soft edges; and of the mesh where the Gaussians cover a pixel to 98 %. --image writes
Gaussians, mesh and its normals.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import json
import math
import os
import tempfile
import time
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree

from arguments import PipelineParams
from benchmarks.exports import short_run
from evaluation.known_truth import score_run
from evaluation.orbits import framing
from evaluation.run_folder import cloud_of, config_of_run
from export import export
from export.cloud import Y_UP
from export.mesh import views
from export.scan import project, scan
from gaussian_renderer import render
from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel
from tests.export.glb_reader import Shape, read_glb
from toy.objects import primitives_of
from toy.reading import parse_prompt
from utils.image_utils import write_png
from utils.machine import machine

VIEWS, SIZE_PX, SUPERSAMPLE = 12, 192, 2
HEADER = (
    "| scene | triangles | boundary edges | chamfer, 1e-3 | normals, degrees | PSNR | at most | inside | s |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


TERMS_HEADER = (
    "| scene | terms | chamfer, 1e-3 | normals, degrees | PSNR | at most | Gaussians | detail | CPU |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
PROMPTS, SEEDS = ("a cyan robot with orange arms", "a purple owl with green belly"), (0, 1)
TERMS = {
    "none": "",
    "opaque": "--lambda_translucency 200",
    "both": "--lambda_translucency 200 --lambda_flatness 100",
}
"""Options of the training, by name."""


class Measures(NamedTuple):
    """A line of the table."""

    triangles: int
    boundary_edges: int
    chamfer: float  # thousandths of a unit
    angle_deg: float
    psnr: float  # dB
    at_most: float
    inside: float


class Surface(NamedTuple):
    """Points that cameras see, with unit normals: [P, 3] each."""

    points: np.ndarray
    normals: np.ndarray


class Drawn(NamedTuple):
    """A mesh from one camera: colours on white [H, W, 3], normals [H, W, 3] (0 beside it), points where it is seen."""

    image: np.ndarray
    normals: np.ndarray
    seen: Surface


def drawn(shape: Shape, camera: RCamera, size_px: int) -> Drawn:
    """In training's axes. Faces that look away are not drawn; colours are interpolated between texels."""
    turn = Y_UP.numpy().astype(float)  # its own inverse
    vertices, vertex_normals = shape.position @ turn, shape.normal @ turn
    places, depth = project(vertices, camera)
    places = places * (size_px / camera.image_width)
    edges = places[shape.faces][:, 1:] - places[shape.faces][:, :1]
    facing = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0] < 0
    faces = shape.faces[facing]
    covered = scan(places[faces], size_px, size_px)
    corners = faces[covered.face]
    share = covered.shares / depth[corners]
    z = 1 / share.sum(axis=1)
    order = np.argsort(-z, kind="stable")  # the nearest last
    pixel = covered.row * size_px + covered.column
    nearest = np.full(size_px**2, -1)
    nearest[pixel[order]] = order
    hit = nearest[nearest >= 0]
    weights = (share[hit] * z[hit, None])[:, :, None]
    of_vertices = (vertices, vertex_normals, shape.uv)
    points, normals, uv = ((values[corners[hit]] * weights).sum(axis=1) for values in of_vertices)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    image, normal_image = np.ones((size_px**2, 3)), np.zeros((size_px**2, 3))
    image[pixel[hit]], normal_image[pixel[hit]] = sampled(shape.texture, uv), normals
    square = (size_px, size_px, 3)
    return Drawn(image.reshape(square), normal_image.reshape(square), Surface(points, normals))


def sampled(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """[P, 3] colours between the texels, as viewers interpolate."""
    pixels = torch.from_numpy(texture.astype(np.float32) / 255).permute(2, 0, 1)[None]
    grid = torch.from_numpy(uv.astype(np.float32) * 2 - 1)[None, None]
    return torch.nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)[0, :, 0].T.numpy()


def true_surface(class_name: str, camera: RCamera, size_px: int) -> Surface:
    """Where the camera's rays meet the toy world's object."""
    inverse = np.linalg.inv(camera.full_proj_transform.numpy().astype(float))
    ndc = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    ends = np.stack([*np.meshgrid(ndc, ndc), np.full((size_px, size_px), 0.5), np.ones((size_px, size_px))], axis=-1)
    ends = ends.reshape(-1, 4) @ inverse
    centre = camera.camera_center.numpy().astype(float)
    directions = ends[:, :3] / ends[:, 3:] - centre
    nearest, normals = np.full(len(directions), np.inf), np.zeros_like(directions)
    for primitive in primitives_of(class_name):
        origin = (centre - np.asarray(primitive.centre)) @ primitive.rotation
        t, normal = primitive.hit(origin, directions @ primitive.rotation)
        wins = t < nearest
        nearest[wins], normals[wins] = t[wins], normal[wins] @ primitive.rotation.T
    hit = np.isfinite(nearest)
    normals = normals[hit] / np.linalg.norm(normals[hit], axis=1, keepdims=True)
    return Surface(centre + nearest[hit, None] * directions[hit], normals)


def differences(one: Surface, other: Surface) -> tuple[float, float]:
    """Chamfer distance, and the mean angle between normals of nearest points in degrees."""
    distances, angles = [], []
    for here, there in ((one, other), (other, one)):
        distance, nearest = cKDTree(there.points).query(here.points)
        cosine = np.einsum("pi,pi->p", here.normals, there.normals[nearest])
        distances.append(distance.mean())
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
    return float(np.mean(distances)), float(np.mean(angles))


def rotated_about_z(surface: Surface, yaw_deg: float) -> Surface:
    c, s = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return Surface(surface.points @ turn, surface.normals @ turn)


def aligned(true: Surface, seen: Surface) -> Surface:
    """The true surface at the yaw, to 0.25 degrees, where it is nearest to what is seen: a run may turn its object."""
    tree, few = cKDTree(seen.points), Surface(true.points[::40], true.normals[::40])
    yaw_deg = 0.0
    for reach_deg, step_deg in ((40, 2.0), (2, 0.25)):
        yaws_deg = yaw_deg + np.arange(-reach_deg, reach_deg + step_deg / 2, step_deg)
        yaw_deg = min(yaws_deg, key=lambda yaw: tree.query(rotated_about_z(few, yaw).points)[0].mean())
    return rotated_about_z(true, yaw_deg)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB."""
    return -10 * math.log10(((a - b) ** 2).mean())


def rendered(cloud: GaussianModel, camera: RCamera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Gaussians on white [H, W, 3], as an opaque surface on white, and their coverage [H, W]."""
    with torch.no_grad():
        out = render(camera, cloud, PipelineParams(), torch.zeros(3))
    premultiplied, cover = out["render"].clamp(0, 1).permute(1, 2, 0).numpy(), 1 - out["alpha"][0].numpy()
    colour = (premultiplied / np.maximum(cover, 1e-3)[..., None]).clip(0, 1)
    on_white = (premultiplied + (1 - cover)[..., None]).clip(0, 1)
    return on_white, np.where(cover[..., None] > 0.5, colour, 1), cover


def together(surfaces: list[Surface]) -> Surface:
    return Surface(*(np.concatenate(parts) for parts in zip(*surfaces)))


def boundary_edges(shape: Shape) -> int:
    """Edges that only one triangle has, seams of the texture joined."""
    _, place = np.unique(shape.position, axis=0, return_inverse=True)
    faces = place.reshape(-1)[shape.faces]
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return int((np.unique(edges, axis=0, return_counts=True)[1] == 1).sum())


def measured(run: Path, path: Path, image: Path | None) -> Measures:
    """Of one scene and its mesh."""
    shape, cloud = read_glb(path), GaussianModel.from_ply(cloud_of(run))
    spec = parse_prompt(config_of_run(run).guidance.text)
    cameras = views(framing([cloud]), VIEWS, SIZE_PX)
    fine = [drawn(shape, camera, SIZE_PX * SUPERSAMPLE) for camera in cameras]
    blocks = (SIZE_PX, SUPERSAMPLE, SIZE_PX, SUPERSAMPLE, 3)
    images = [one.image.reshape(blocks).mean(axis=(1, 3)) for one in fine]
    truth, opaque, cover = zip(*(rendered(cloud, camera) for camera in cameras))
    quality = np.mean([psnr(a, b) for a, b in zip(images, truth)])
    at_most = np.mean([psnr(a, b) for a, b in zip(opaque, truth)])
    inside = np.mean([psnr(a[c > 0.98], b[c > 0.98]) for a, b, c in zip(images, truth, cover)])
    seen = together([one.seen for one in fine])
    true = together([true_surface(spec.class_name, camera, SIZE_PX) for camera in cameras])
    chamfer, angle_deg = differences(seen, aligned(true, seen))
    if image is not None:
        normals = [(one.normals.reshape(blocks).mean(axis=(1, 3)) + 1) / 2 for one in fine]
        shown = [[truth[k], images[k], normals[k]] for k in range(1, VIEWS, 3)]
        sheet = np.concatenate([np.concatenate(column) for column in shown], axis=1)
        write_png(image, np.round(sheet * 255).astype(np.uint8))
    return Measures(
        len(shape.faces), boundary_edges(shape), 1e3 * chamfer, angle_deg, float(quality), float(at_most), float(inside)
    )


def row(run: Path, folder: Path, images: Path | None) -> str:
    """A line of the table for one scene."""
    start = time.perf_counter()
    path = export(run, "glb", folder / f"{run.name}.glb")
    took_s = time.perf_counter() - start
    of = measured(run, path, None if images is None else images / f"{run.name}.png")
    shape_facts = f"{of.triangles:,} | {of.boundary_edges} | {of.chamfer:.1f} | {of.angle_deg:.1f}"
    colour_facts = f"{of.psnr:.1f} | {of.at_most:.1f} | {of.inside:.1f}"
    return f"| {config_of_run(run).guidance.text} | {shape_facts} | {colour_facts} | {took_s:.0f} |"


def facts_of(prompt: str, terms: str, seed: int, folder: Path) -> dict[str, float]:
    """Measures of a run's mesh, PSNR of its Gaussians, CPU seconds of its training; what is in `folder` is not made
    again."""
    run = folder / f"{parse_prompt(prompt).class_name}_{terms}_{seed}"
    note, trained = run.with_suffix(".json"), run.with_suffix(".cpu_s")
    if not trained.exists():
        before = os.times()
        short_run(run, "--text", prompt, "--seed", str(seed), *TERMS[terms].split())
        trained.write_text(str(sum(os.times()[2:4]) - sum(before[2:4])))  # of child processes
    if not note.exists():
        measures = measured(run, export(run, "glb", run.with_suffix(".glb")), None)
        scores = {name: score_run(run)[name] for name in ("psnr", "detail")}
        note.write_text(json.dumps({**measures._asdict(), **{f"gaussians_{k}": v for k, v in scores.items()}}))
    return {**json.loads(note.read_text()), "cpu_s": float(trained.read_text())}


def terms_row(prompt: str, terms: str, folder: Path) -> str:
    """A line of the table of terms: means over SEEDS."""
    every = [facts_of(prompt, terms, seed, folder) for seed in SEEDS]
    plain = [facts_of(prompt, "none", seed, folder)["cpu_s"] for seed in SEEDS]
    of = {name: np.mean([facts[name] for facts in every]) for name in every[0]}
    ratio = np.mean([facts["cpu_s"] / cpu_s for facts, cpu_s in zip(every, plain)])
    mesh = f"{of['chamfer']:.1f} | {of['angle_deg']:.1f} | {of['psnr']:.1f} | {of['at_most']:.1f}"
    gaussians = f"{of['gaussians_psnr']:.2f} | {of['gaussians_detail']:.3f}"
    return f"| {prompt} | {TERMS[terms].replace('--lambda_', '') or '-'} | {mesh} | {gaussians} | {ratio:.2f} |"


@program.refuses("mesh", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--image", type=Path, help="folder for an image of each scene")
    parser.add_argument("--terms", type=Path, metavar="FOLDER", help="compare terms of the loss")
    args = parser.parse_args(argv)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n\n{HEADER if args.terms is None else TERMS_HEADER}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.terms is not None:
            for prompt in PROMPTS:
                for terms in TERMS:
                    print(terms_row(prompt, terms, args.terms), flush=True)
            return
        for run in args.runs or [short_run(folder / "run")]:
            print(row(run, folder, args.image), flush=True)


if __name__ == "__main__":
    program.run(main)
