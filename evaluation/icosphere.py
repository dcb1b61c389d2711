# SPDX-License-Identifier: Apache-2.0
"""Evenly spread directions: an icosahedron whose triangles are halved along each edge. N corners."""

import itertools

import numpy as np

GOLDEN = (1 + 5**0.5) / 2


def icosphere(halvings: int) -> tuple[np.ndarray, list[list[int]]]:
    """Unit vectors [N, 3], and for each the corners that an edge joins it to; N = 10 * 4 ** halvings + 2."""
    corners = [np.array(point) for a, b in itertools.product((-1, 1), (-GOLDEN, GOLDEN)) for point in _turns(a, b)]
    points = np.stack(corners) / np.linalg.norm(corners[0])
    triangles = _triangles(points)
    for _ in range(halvings):
        points, triangles = _halved(points, triangles)
    edges = {pair for triangle in triangles for pair in itertools.permutations(triangle, 2)}
    return points, [sorted(b for a, b in edges if a == corner) for corner in range(len(points))]


def _turns(a: float, b: float) -> list[tuple[float, float, float]]:
    return [(0.0, a, b), (a, b, 0.0), (b, 0.0, a)]


def _triangles(points: np.ndarray) -> list[tuple[int, int, int]]:
    """Triples of corners that are all at the smallest distance from each other."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    joined = distance < 1.01 * distance[distance > 1e-9].min()
    triples = itertools.combinations(range(len(points)), 3)
    return [(a, b, c) for a, b, c in triples if joined[a, b] and joined[b, c] and joined[a, c]]


def _halved(
    points: np.ndarray, triangles: list[tuple[int, int, int]]
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    found, middle, smaller = list(points), dict[tuple[int, int], int](), list[tuple[int, int, int]]()
    for a, b, c in triangles:
        for edge in ((a, b), (b, c), (a, c)):
            if edge not in middle:  # corners of a triangle are in ascending order
                middle[edge] = len(found)
                between = points[edge[0]] + points[edge[1]]
                found.append(between / np.linalg.norm(between))
        ab, bc, ac = middle[a, b], middle[b, c], middle[a, c]
        for own in ((a, ab, ac), (b, ab, bc), (c, bc, ac), (ab, bc, ac)):
            first, second, third = sorted(own)
            smaller.append((first, second, third))
    return np.stack(found), smaller
