# SPDX-License-Identifier: Apache-2.0
"""A triangle mesh from Gaussians: density on a grid, the level that looks like them, marching cubes, fewer triangles.

N Gaussians, V vertices, F triangles, X x Y x Z grid points. A mesh's triangles are counter-clockwise from outside.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch

from arguments import PipelineParams
from evaluation.orbits import SOLID_OPACITY, Framing
from export.options import library
from export.scan import depth_of_mesh
from gaussian_renderer import render
from scene.cameras import RCamera
from scene.gaussian_model import GaussianModel
from utils.device import threads_for
from utils.general_utils import build_rotation

BLOCK = 8
"""Grid points along a block's side; a block is computed at once."""
LEAST_DENSITY = 0.01
"""A Gaussian counts where it adds more."""
LEAST_LEVEL, MOST_LEVEL, LEVEL_STEPS = 0.1, 2.0, 6
"""Densities between which the surface's is searched, by so many bisections of its logarithm."""
REACH, MARGIN = 2.5, 0.1
"""Deviations of a Gaussian that the grid holds, where many together lie above the surface's level; of the framing's
radius, what it holds around every centre at least, and around the framing's sphere at most."""
SMOOTHING = 1.0
"""Steps of the grid: deviation of the filter that takes single Gaussians' bumps out of the surface."""
MOST_GROWTH = 1.05
"""Of the surface's area, while the level rises: a solid shrinks; what grows has opened into slits and hollows."""
LEAST_PART = 0.01
"""Connected parts with a smaller share of the triangles are dropped."""


class Mesh(NamedTuple):
    """Vertices [V, 3] and triangles [F, 3]."""

    vertices: np.ndarray
    faces: np.ndarray


class Grid(NamedTuple):
    """Points low + step * (x, y, z)."""

    low: np.ndarray  # [3]
    step: float
    shape: tuple[int, int, int]  # multiples of BLOCK


@torch.no_grad()
def grid_around(gaussians: GaussianModel, seen: Framing, points: int) -> Grid:
    """About `points` along the longest side of the box that holds the solid Gaussians in the framing's sphere.

    Each counts with its REACH, not as a point: a large one is cut off otherwise. Beyond the sphere and its MARGIN none
    counts, so that a single huge one makes the steps of all others coarser by 1.7 times at most. Small ones, up to 4 %
    of the radius, do not reach past the MARGIN around their centres.
    """
    xyz, opacity = gaussians.get_xyz, gaussians.get_opacity[:, 0]
    inside = torch.linalg.vector_norm(xyz - seen.centre, dim=1) <= seen.radius
    solid = inside & (opacity >= SOLID_OPACITY)
    kept = solid if solid.any() else inside
    margin = MARGIN * seen.radius
    deviation = _deviations(gaussians.get_scaling[kept], build_rotation(gaussians.get_rotation[kept]))
    reach = (REACH * deviation).clamp_min(margin)
    low = torch.maximum((xyz[kept] - reach).amin(dim=0), seen.centre - seen.radius - margin).numpy()
    high = torch.minimum((xyz[kept] + reach).amax(dim=0), seen.centre + seen.radius + margin).numpy()
    step = float((high - low).max()) / points
    blocks = np.ceil((high - low) / (step * BLOCK)).astype(int)
    return Grid(low, step, tuple(int(count) * BLOCK for count in blocks))  # type: ignore[arg-type]


@torch.no_grad()
@threads_for(BLOCK**3)  # of each operation: threads would wait for one another
def density(gaussians: GaussianModel, grid: Grid) -> np.ndarray:
    """[X, Y, Z]: sum over the Gaussians of opacity exp(-d^2 / 2), d the distance in deviations, above LEAST_DENSITY.

    Deviations below a step count as that, so that no Gaussian falls between the points and flat ones leave no ridges.
    """
    kept = gaussians.get_opacity[:, 0] > LEAST_DENSITY
    opacity, rotation = gaussians.get_opacity[kept, 0], build_rotation(gaussians.get_rotation[kept])
    scale = gaussians.get_scaling[kept].clamp_min(grid.step)
    mean = gaussians.get_xyz[kept] - torch.from_numpy(grid.low)
    reach = _deviations(scale, rotation) * torch.sqrt(2 * torch.log(opacity / LEAST_DENSITY))[:, None]
    root = rotation.transpose(1, 2) / scale[:, :, None]  # d = |root (x - mean)|
    inverse = root.transpose(1, 2) @ root
    field = torch.zeros(grid.shape)
    corner = torch.arange(BLOCK) * grid.step
    x = torch.cartesian_prod(corner, corner, corner)
    features = torch.cat((x[:, [0, 0, 0, 1, 1, 2]] * x[:, [0, 1, 2, 1, 2, 2]], x, torch.ones(len(x), 1)), dim=1)
    for block, some in zip(*_groups(*_members(mean - reach, mean + reach, grid))):
        first = np.unravel_index(block, [count // BLOCK for count in grid.shape])
        squared = features @ _quadratic(inverse[some], mean[some] - torch.tensor(first) * (BLOCK * grid.step))
        cells = tuple(slice(k * BLOCK, (k + 1) * BLOCK) for k in first)
        field[cells] = (squared.mul_(-0.5).exp_() @ opacity[some]).view(BLOCK, BLOCK, BLOCK)
    return field.numpy()


def _deviations(scale: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """[N, 3] along the world's axes, of Gaussians with scales [N, 3] along the columns of `rotation` [N, 3, 3]."""
    return torch.sqrt(((rotation * scale[:, None]) ** 2).sum(dim=2))


def _quadratic(inverse: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """[10, n]: coefficients of xx, xy, xz, yy, yz, zz, x, y, z, 1 in (x - mean)^T inverse (x - mean)."""
    row, column = torch.triu_indices(3, 3)
    pull = torch.einsum("nij,nj->ni", inverse, mean)
    squares = inverse[:, row, column] * torch.where(row == column, 1.0, 2.0)
    return torch.cat((squares, -2 * pull, (pull * mean).sum(dim=1, keepdim=True)), dim=1).T


def _members(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """(block, Gaussian) for every block that the box from `low` to `high` [N, 3] touches."""
    counts = torch.tensor(grid.shape) // BLOCK
    side = grid.step * BLOCK
    first = torch.floor(low / side).long().clamp_min(0)
    last = torch.minimum(torch.floor(high / side).long(), counts - 1)
    size = (last - first + 1).clamp_min(0)
    total = size.prod(dim=1)
    member = torch.repeat_interleave(torch.arange(len(low)), total)
    within = torch.arange(len(member)) - torch.repeat_interleave(total.cumsum(0) - total, total)
    z = first[member, 2] + within % size[member, 2]
    y = first[member, 1] + within // size[member, 2] % size[member, 1]
    x = first[member, 0] + within // (size[member, 2] * size[member, 1])
    return (x * counts[1] + y) * counts[2] + z, member


def _groups(of_block: torch.Tensor, member: torch.Tensor) -> tuple[list[int], tuple[torch.Tensor, ...]]:
    """Blocks, and the Gaussians of each."""
    order = torch.argsort(of_block, stable=True)
    blocks, counts = torch.unique_consecutive(of_block[order], return_counts=True)
    return blocks.tolist(), member[order].split(counts.tolist())


def surface_at(field: np.ndarray, grid: Grid, level: float) -> Mesh | None:
    """Marching cubes where the density passes `level`, smoothed; None where nothing is left. Hollows without a way out
    are filled first.

    Opacity is smoothed, not density: it is flat inside, so that a face stays where it is and only its bumps go.
    """
    solid = library("scipy.ndimage").binary_fill_holes(field > level)
    opaque = 1 - np.exp2(-field / np.float32(level))  # 0.5 at the level
    opaque[solid & (field <= level)] = 1
    opaque = library("scipy.ndimage").gaussian_filter(opaque, SMOOTHING)
    opaque[[0, -1]] = opaque[:, [0, -1]] = opaque[:, :, [0, -1]] = 0  # closed at the grid's ends
    if opaque.max() <= 0.5:
        return None
    vertices, faces, _, _ = library("skimage.measure").marching_cubes(opaque, 0.5)
    return Mesh(grid.low + grid.step * vertices, np.ascontiguousarray(faces[:, ::-1]).astype(np.int64))


def best_surface(
    gaussians: GaussianModel, grid: Grid, cameras: list[RCamera], device: str | torch.device = "cpu"
) -> Mesh:
    """The surface at the level whose outlines are as large as the Gaussians' own, which are rendered on `device`, or at
    a lower one if it would have opened up before that: fog is opaque where it is deep, at a low density.

    Raises ValueError where there is none.
    """
    field = density(gaussians, grid)
    shown = gaussians.with_parameters(gaussians.parameters_in_order(), device)
    wanted_px = sum(int((coverage(shown, camera) > 0.5).sum()) for camera in cameras)
    best = surface_at(field, grid, LEAST_LEVEL)
    if best is None:
        raise ValueError(f"the Gaussians are too transparent for a mesh: no region reaches the density {LEAST_LEVEL}.")
    low, high, least_area = LEAST_LEVEL, MOST_LEVEL, area(best)
    for _ in range(LEVEL_STEPS):
        level = (low * high) ** 0.5
        mesh = surface_at(field, grid, level)
        if mesh is None or outlines_px(mesh, cameras) < wanted_px or area(mesh) > MOST_GROWTH * least_area:
            high = level
        else:
            low, best, least_area = level, mesh, min(area(mesh), least_area)
    return best


def area(mesh: Mesh) -> float:
    """Of all triangles."""
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def outlines_px(mesh: Mesh, cameras: list[RCamera]) -> int:
    """Pixels that the mesh covers, of all cameras' images together."""
    return sum(int(np.isfinite(depth_of_mesh(*mesh, camera)).sum()) for camera in cameras)


@torch.no_grad()
def coverage(gaussians: GaussianModel, camera: RCamera) -> np.ndarray:
    """[H, W]: 1 - transmittance."""
    device = gaussians.get_xyz.device
    out = render(camera.to(device), gaussians, PipelineParams(), torch.zeros(3, device=device))
    return 1 - out["alpha"][0].cpu().numpy()


def without_fragments(mesh: Mesh) -> Mesh:
    """Only the connected parts with at least LEAST_PART of the triangles."""
    sparse, graph = library("scipy.sparse"), library("scipy.sparse.csgraph")
    count, faces = len(mesh.vertices), mesh.faces
    edges = sparse.coo_matrix(
        (np.ones(len(faces) * 2), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), (count, count)
    )
    parts = graph.connected_components(edges, directed=False)[1][faces[:, 0]]
    sizes = np.bincount(parts)
    return compact(Mesh(mesh.vertices, faces[sizes[parts] >= LEAST_PART * len(faces)]))


def compact(mesh: Mesh) -> Mesh:
    """Without the vertices that no triangle uses."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """At most about `faces` triangles, by quadric errors."""
    if len(mesh.faces) <= faces:
        return mesh
    points, triangles = library("fast_simplification").simplify(
        mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), target_count=faces
    )
    return without_fragments(separated(closed(Mesh(points.astype(np.float64), triangles.astype(np.int64)))))


def closed(mesh: Mesh) -> Mesh:
    """Without triangles that are an edge or a point, without pairs that lie on one another, and with holes filled.

    The first two leave a closed surface closed, however thin their triangles are; a hole becomes a fan.
    """
    places, index = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = index.reshape(-1)[mesh.faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    _, which, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    faces = faces[count[which.reshape(-1)] != 2]
    fans = [[loop[0], loop[k + 1], loop[k]] for loop in hole_loops(faces) for k in range(1, len(loop) - 1)]
    return compact(Mesh(places, np.concatenate([faces, np.array(fans, np.int64).reshape(-1, 3)])))


def hole_loops(faces: np.ndarray) -> list[list[int]]:
    """Around each hole its vertices, in the order in which the triangles have them."""
    edges = {edge for face in faces.tolist() for edge in zip(face, face[1:] + face[:1])}
    following: dict[int, list[int]] = defaultdict(list)  # a vertex may lie on several holes
    for start, end in sorted(edges):
        if (end, start) not in edges:
            following[start].append(end)
    loops = []
    for start in list(following):
        while following[start]:
            loop, at = [start], following[start].pop()
            while at != start and following[at]:
                loop.append(at)
                at = following[at].pop()
            loops.append(loop)
    return loops


def separated(mesh: Mesh) -> Mesh:
    """A closed surface, in the same place, whose every edge has two triangles: of edges that lie on one another, all
    but one get a vertex between their ends.

    Of four or more triangles around an edge, those with the solid between them belong together.
    """
    vertices, faces = mesh
    while True:
        edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)  # edge k is of triangle k // 3
        _, which, count = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
        shared = np.flatnonzero(count > 2)
        if not len(shared):
            return Mesh(vertices, faces)
        some = np.flatnonzero(which.reshape(-1) == shared[0])
        start, end = edges[some[0]]
        middle = vertices[start] + (vertices[end] - vertices[start]) * (2 / len(some))
        for k in _around_the_solid(vertices, faces, edges, some):
            a, b, c = faces[k // 3, (k + np.arange(3)) % 3]
            faces = np.concatenate([faces, [[len(vertices), b, c]]])
            faces[k // 3] = a, len(vertices), c
        vertices = np.concatenate([vertices, [middle]])


def _around_the_solid(vertices: np.ndarray, faces: np.ndarray, edges: np.ndarray, some: np.ndarray) -> tuple[int, int]:
    """Of the edges `some`, all between the same vertices, two whose triangles have nothing but solid between them."""
    start, end = vertices[edges[some[0]]]
    apex = vertices[faces[some // 3, (some + 2) % 3]] - start
    along = (end - start) / np.linalg.norm(end - start)
    right = apex[0] - along * (apex[0] @ along)
    angle = np.arctan2(apex @ np.cross(along, right), apex @ right)
    in_order = some[np.argsort(angle)]
    outwards = edges[in_order, 0] == edges[some[0], 0]  # the solid ends there, as the angle grows
    last = np.flatnonzero(outwards & ~np.roll(outwards, 1))[0]
    return int(in_order[last - 1]), int(in_order[last])


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """[V, 3] unit normals, each the mean over its triangles by area."""
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    normals = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(normals, mesh.faces[:, corner], np.cross(b - a, c - a))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.maximum(length, 1e-30), (0.0, 0.0, 1.0))
