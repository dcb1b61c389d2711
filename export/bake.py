# SPDX-License-Identifier: Apache-2.0
"""The Gaussians' colours on a mesh's texture, from images all around.

T texels that belong to a triangle, S x S texels. A texture's row 0 is its upper edge, where v = 1.
"""

from typing import NamedTuple

import numpy as np
import torch

from arguments import PipelineParams
from export.options import library
from export.progress import report
from export.scan import depth_of_mesh, project, scan
from export.surface import Mesh
from gaussian_renderer import render
from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel

LEAST_COSINE = 0.2
"""Between normal and view: what is seen flatter is not read. Views count by it: by the pixels that a texel fills."""
BAKE_BEGIN = 0.65
"""Of the time that a mesh takes, the share that has passed when the texture is begun; measured, two cores."""
LEAST_COVERAGE = 0.5
DEPTH_TOLERANCE = 0.02
"""Of the scene's radius: a texel so far behind the nearest surface is still seen."""


class Texels(NamedTuple):
    """Where on the texture, and where in the world."""

    row: np.ndarray  # [T]
    column: np.ndarray  # [T]
    position: np.ndarray  # [T, 3]
    normal: np.ndarray  # [T, 3]


def texels_of(mesh: Mesh, normals: np.ndarray, uv: np.ndarray, size: int) -> Texels:
    """Texels whose centres the triangles cover. normals [V, 3], uv [V, 2] in 0..1 with v upwards."""
    places = uv * [1, -1] * size + [0, size]
    covered = scan(places[mesh.faces], size, size)
    corners = mesh.faces[covered.face]
    position = (mesh.vertices[corners] * covered.shares[:, :, None]).sum(axis=1)
    normal = (normals[corners] * covered.shares[:, :, None]).sum(axis=1)
    length = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return Texels(covered.row, covered.column, position.astype(np.float32), (normal / length).astype(np.float32))


def bake(
    gaussians: GaussianModel, mesh: Mesh, texels: Texels, cameras: list[RCamera], size: int, radius: float
) -> np.ndarray:
    """uint8 [S, S, 3]. `radius` is the scene's; texels that no camera sees take the nearest seen one's colour."""
    colour, weight = np.zeros((len(texels.row), 3), np.float32), np.zeros(len(texels.row), np.float32)
    for k, camera in enumerate(cameras):
        report(BAKE_BEGIN + (1 - BAKE_BEGIN) * k / len(cameras), "baking the texture")
        index, seen, share = _seen_from(camera, gaussians, mesh, texels, radius)
        colour[index] += seen * share[:, None]
        weight[index] += share
    known = weight > 0
    if not known.any():
        raise ValueError(
            "no image shows any of the mesh, so that it has no colours; the Gaussians are too transparent."
        )
    colour[known] /= weight[known, None]
    nearest = library("scipy.spatial").cKDTree(texels.position[known]).query(texels.position[~known])[1]
    colour[~known] = colour[known][nearest]
    return _padded(colour, texels, size)


def _seen_from(
    camera: RCamera, gaussians: GaussianModel, mesh: Mesh, texels: Texels, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the texels that one image shows, their colours with the background taken out, their weights."""
    towards = camera.camera_center.cpu().numpy() - texels.position
    cosine = np.einsum("ti,ti->t", texels.normal, towards) / np.linalg.norm(towards, axis=1)
    (facing,) = np.nonzero(cosine > LEAST_COSINE)
    places, depth = project(texels.position[facing], camera)
    column, row = np.clip(places.astype(int), 0, (camera.image_width - 1, camera.image_height - 1)).T
    in_front = depth < depth_of_mesh(*mesh, camera)[row, column] + DEPTH_TOLERANCE * radius
    image = _sampled(_colour_and_coverage(gaussians, camera), places[in_front], camera)
    shown = image[:, 3] > LEAST_COVERAGE
    index, image = facing[in_front][shown], image[shown]
    return index, image[:, :3] / image[:, 3:], image[:, 3] * cosine[index]


@torch.no_grad()
def _colour_and_coverage(gaussians: GaussianModel, camera: RCamera) -> torch.Tensor:
    """[4, H, W] on the CPU: colour on black and 1 - transmittance."""
    device = gaussians.get_xyz.device
    out = render(camera.to(device), gaussians, PipelineParams(), torch.zeros(3, device=device))
    return torch.cat((out["render"].clamp(0, 1), 1 - out["alpha"])).cpu()


def _sampled(image: torch.Tensor, places: np.ndarray, camera: RCamera) -> np.ndarray:
    """[T, C]: an image [C, H, W] between its pixels."""
    size = torch.tensor([camera.image_width, camera.image_height])
    grid = (torch.from_numpy(places).float() / size * 2 - 1)[None, None]
    found = torch.nn.functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].T.numpy()


def _padded(colour: np.ndarray, texels: Texels, size: int) -> np.ndarray:
    """The whole texture: what belongs to no triangle takes the nearest texel's colour, so that no seam shows."""
    texture, empty = np.zeros((size, size, 3)), np.ones((size, size), dtype=bool)
    texture[texels.row, texels.column] = colour
    empty[texels.row, texels.column] = False
    row, column = library("scipy.ndimage").distance_transform_edt(empty, return_distances=False, return_indices=True)
    return np.clip(np.round(texture[row, column] * 255), 0, 255).astype(np.uint8)
