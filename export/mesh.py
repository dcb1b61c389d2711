# SPDX-License-Identifier: Apache-2.0
"""A textured mesh as GLB: y up, the front towards +z, one material. docs/exports.md tells what it cannot show."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluation.orbits import Framing, Orbit, camera_on_orbit, framing
from export.bake import bake, texels_of
from export.cloud import Y_UP
from export.flatten import creased, flattened
from export.limits import check
from export.options import GENERATOR, Options, library, name_inside
from export.progress import report
from export.surface import Mesh, best_surface, grid_around, simplified, vertex_normals, without_fragments
from scene.cameras import RCamera
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from utils.general_utils import atomic_path

FOV_RAD = 0.5
OUTLINE_VIEWS, OUTLINE_PX = 6, 320
BAKE_VIEWS, BAKE_PX = 64, 384
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
UNLIT = "KHR_materials_unlit"
FLATTENED_FACES = 40_000
"""Triangles while bumps are taken out: enough for a sharp edge, few enough for a second of time."""
FLOATER_STEPS = 4
"""Gaussians farther outside of the surface, in steps of the grid, are no part of it."""
LIBRARIES = ("skimage.measure", "fast_simplification", "xatlas", "trimesh")


def check_glb(gaussians: GaussianModel, options: Options) -> None:
    """Raises ValueError for a scene of which there can be no mesh, and for a library that is not installed."""
    for name in LIBRARIES:
        library(name)
    check(gaussians, "glb")
    framing([gaussians]).distance(FOV_RAD)


def write_glb(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Density field, marching cubes, flat sides, fewer triangles, unwrapping, a texture baked from images."""
    check_glb(gaussians, options)
    seen = framing([gaussians])
    report(0.0, "finding the surface")
    grid = grid_around(gaussians, seen, options.grid)
    mesh = best_surface(gaussians, grid, views(seen, OUTLINE_VIEWS, OUTLINE_PX), options.device)
    mesh = simplified(without_fragments(mesh), max(FLATTENED_FACES, options.faces))
    mesh = creased(simplified(flattened(mesh, grid.step), options.faces))
    normals = vertex_normals(mesh)
    solid = without_floaters(gaussians, mesh, normals, FLOATER_STEPS * grid.step, options.device)
    report(0.55, "unwrapping the surface")
    mesh, normals, uv = unwrapped(mesh, normals)
    texels = texels_of(mesh, normals, uv, options.texture_px)
    texture = bake(solid, mesh, texels, views(seen, BAKE_VIEWS, BAKE_PX), options.texture_px, seen.radius)
    content = glb(mesh, normals, uv, texture, name_inside(out))
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)


def views(seen: Framing, count: int, size_px: int) -> list[RCamera]:
    """Cameras from directions spread evenly over the sphere (a Fibonacci spiral)."""
    cameras = []
    for k in range(count):
        elevation_deg = math.degrees(math.asin(1 - (2 * k + 1) / count))
        orbit = Orbit(size_px, size_px, FOV_RAD, elevation_deg, seen.distance(FOV_RAD))
        cameras.append(camera_on_orbit(seen.centre, orbit, math.degrees(k * math.pi * (3 - math.sqrt(5))) % 360))
    return cameras


def without_floaters(
    gaussians: GaussianModel, mesh: Mesh, normals: np.ndarray, distance: float, device: str | torch.device = "cpu"
) -> GaussianModel:
    """Only what is inside of the mesh or within `distance` of it: the rest would be painted on what is behind it.

    The result is on `device`.
    """
    xyz = gaussians.get_xyz.detach().cpu().numpy()
    away, nearest = library("scipy.spatial").cKDTree(mesh.vertices).query(xyz)
    outside = np.einsum("ni,ni->n", xyz - mesh.vertices[nearest], normals[nearest]) > 0
    kept = torch.from_numpy(~outside | (away <= distance))
    raw = gaussians.parameters_in_order()
    return gaussians.with_parameters({name: raw[name].detach()[kept] for name in PER_GAUSSIAN}, device)


def unwrapped(mesh: Mesh, normals: np.ndarray) -> tuple[Mesh, np.ndarray, np.ndarray]:
    """The mesh with a vertex for each place on the texture, its normals, and uv [V, 2] with v upwards."""
    source, faces, uv = library("xatlas").parametrize(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    return Mesh(mesh.vertices[source], faces.astype(np.int64)), normals[source], uv.astype(np.float64)


def glb(mesh: Mesh, normals: np.ndarray, uv: np.ndarray, texture: np.ndarray, name: str) -> bytes:
    """The file's content: one node and mesh called `name`, one rough, non-metallic material with the texture as PNG."""
    trimesh, turn = library("trimesh"), Y_UP.double().numpy()
    material = trimesh.visual.material.PBRMaterial(
        name="baked", baseColorTexture=Image.fromarray(texture), metallicFactor=0.0, roughnessFactor=1.0
    )
    shape = trimesh.Trimesh(
        vertices=mesh.vertices @ turn.T,
        faces=mesh.faces,
        vertex_normals=normals @ turn.T,
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
        process=False,
    )
    complete = partial(_complete, name=name)
    return trimesh.exchange.gltf.export_glb(trimesh.Scene(shape), include_normals=True, tree_postprocessor=complete)


def _complete(tree: dict[str, Any], name: str) -> None:
    """Names, bufferView.target, which trimesh leaves out, and that no light is to be added to that in the texture."""
    tree["asset"]["generator"] = GENERATOR
    for named in (*tree["meshes"], *(node for node in tree["nodes"] if "mesh" in node)):
        named["name"] = name
    tree["extensionsUsed"] = [UNLIT]
    for material in tree["materials"]:
        material["extensions"] = {UNLIT: {}}
    for shape in tree["meshes"]:
        for primitive in shape["primitives"]:
            for accessor in primitive["attributes"].values():
                tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = ARRAY_BUFFER
            tree["bufferViews"][tree["accessors"][primitive["indices"]]["bufferView"]]["target"] = ELEMENT_ARRAY_BUFFER
