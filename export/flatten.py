# SPDX-License-Identifier: Apache-2.0
"""Bumps out of a surface whose edges stay: the triangles' normals are filtered, then vertices moved until they fit.

Bilateral normal filtering as in Zheng et al., 2011 (https://doi.org/10.1109/TVCG.2010.264), with neighbours by distance
and vertices moved as by Sun et al., 2007 (https://doi.org/10.1109/TVCG.2007.1065). A triangle follows its filtered
normal only as far as flat ground is near: what is round would become facets. V vertices, F triangles, K neighbours.
"""

import math

import numpy as np

from export.options import library
from export.surface import Mesh

NEAR, FAR = 60, 120
"""Nearest triangles that are averaged, and those that are looked at for flat ground; they stay the same ones."""
REACH, FAR_REACH = 5.0, 8.0
"""Steps of the grid: deviation of the average over distance, and how far flat ground is looked for."""
ANGLE_RAD = 0.25
"""Deviation of the average over the angle between normals: what is across an edge does not count."""
PASSES, ROUNDS, MOVES = 3, 8, 15
"""Passes; averages, and moves of the vertices, of each."""
LEAST_COSINE = 0.6
"""Between a triangle's normal and the one it had: from the middle of a rounded edge to its side are 45 degrees."""
FLAT_RAD, LEAST_FLAT, ALL_FLAT = 0.08, 0.3, 0.6
"""Ground is flat within this angle; shares of it at which a triangle begins to follow and follows wholly."""
CREASE_RAD = math.radians(40)
"""Triangles that meet at more do not share a normal."""
LEAST_AREA = 0.1
"""Of the mean: what is smaller makes no crease, for its normal may be any."""


def flattened(mesh: Mesh, step: float) -> Mesh:
    """The mesh with flat sides flat and edges sharp. `step` is the grid's."""
    before = normals_and_areas(mesh)[0]
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    tree, count = library("scipy.spatial").cKDTree(centres), len(centres)
    distance, near = tree.query(centres, k=np.arange(1, min(FAR, count) + 1))
    for _ in range(PASSES):
        mesh = fitted(mesh, target_normals(mesh, near, distance / step), before)
    return mesh


def target_normals(mesh: Mesh, near: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Unit normals [F, 3] to turn to: averages over the first NEAR of the triangles `near` [F, K], where it is flat.

    distance [F, K]: to those triangles, in steps of the grid, ascending.
    """
    normals, area = normals_and_areas(mesh)
    nearest = near[:, :NEAR]
    average = filtered(normals, nearest, area[nearest] * np.exp(-0.5 * (distance[:, :NEAR] / REACH) ** 2))
    ground = area[near] * (distance <= FAR_REACH)
    flat = (ground * (_cosines(average, near) > math.cos(FLAT_RAD))).sum(axis=1) / np.maximum(ground.sum(axis=1), 1e-30)
    share = np.clip((flat - LEAST_FLAT) / (ALL_FLAT - LEAST_FLAT), 0, 1)[:, None]
    return _unit(normals + (share * share * (3 - 2 * share)) * (average - normals))


def filtered(normals: np.ndarray, near: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Normals [F, 3], ROUNDS times averaged over the triangles `near` [F, K] by `weights` [F, K] and likeness."""
    count, k = near.shape
    rows = np.arange(0, count * k + 1, k)
    for _ in range(ROUNDS):
        likeness = np.exp((_cosines(normals, near) - 1) / ANGLE_RAD**2)
        average = library("scipy.sparse").csr_matrix(((weights * likeness).ravel(), near.ravel(), rows), (count, count))
        normals = _unit(average @ normals)
    return normals


def fitted(mesh: Mesh, normals: np.ndarray, before: np.ndarray) -> Mesh:
    """The mesh with its vertices moved, MOVES times, towards the planes through their triangles' centres.

    Vertices of a triangle that would be turned too far from its normal `before` [F, 3] stay where they are.
    """
    vertices, faces = mesh
    ends = (np.ones(faces.size), (faces.ravel(), np.repeat(np.arange(len(faces)), 3)))
    around = library("scipy.sparse").csr_matrix(ends, (len(vertices), len(faces)))
    count = np.maximum(np.asarray(around.sum(axis=1)), 1)
    squares = (around @ (normals[:, :, None] * normals[:, None]).reshape(-1, 9)).reshape(-1, 3, 3)
    for _ in range(MOVES):
        heights = np.einsum("fi,fi->f", normals, vertices[faces].mean(axis=1))
        pull = around @ (normals * heights[:, None]) - np.einsum("vij,vj->vi", squares, vertices)
        vertices = vertices + pull / count
    stays = np.zeros(len(vertices), bool)
    while True:
        cosines = np.einsum("fi,fi->f", normals_and_areas(Mesh(vertices, faces))[0], before)
        turned = faces[cosines < LEAST_COSINE]
        if stays[turned].all():  # one without area has no normal, wherever its vertices are
            return Mesh(vertices, faces)
        stays[turned] = True
        vertices[stays] = mesh.vertices[stays]


def creased(mesh: Mesh) -> Mesh:
    """The same surface; a vertex on a crease is there once for each smooth side, so that normals are not shared."""
    faces = mesh.faces
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    _, which, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(which.reshape(-1), kind="stable")  # corner k is of triangle k // 3, its edge goes to the next
    one, other = order[count[which.reshape(-1)[order]] == 2].reshape(-1, 2).T
    normals, area = normals_and_areas(mesh)
    smooth = np.einsum("ei,ei->e", normals[one // 3], normals[other // 3]) > math.cos(CREASE_RAD)
    smooth |= np.minimum(area[one // 3], area[other // 3]) < LEAST_AREA * area.mean()
    one, other = one[smooth], other[smooth]
    following = lambda corner: corner // 3 * 3 + (corner + 1) % 3  # noqa: E731
    here, there = np.concatenate([one, following(one)]), np.concatenate([following(other), other])
    links = library("scipy.sparse").coo_matrix((np.ones(len(here)), (here, there)), (faces.size, faces.size))
    sides, side = library("scipy.sparse.csgraph").connected_components(links, directed=False)
    vertices = np.empty((sides, 3))
    vertices[side] = mesh.vertices[faces.ravel()]
    return Mesh(vertices, side.reshape(-1, 3).astype(np.int64))


def normals_and_areas(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Of the triangles: unit normals [F, 3], areas [F]."""
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    cross = np.cross(b - a, c - a)
    return _unit(cross), np.linalg.norm(cross, axis=1) / 2


def _cosines(normals: np.ndarray, near: np.ndarray) -> np.ndarray:
    """[F, K]: between each normal and its neighbours'."""
    columns = [np.einsum("fi,fi->f", normals, normals[some]) for some in near.T]  # little memory
    return np.stack(columns, axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
