# SPDX-License-Identifier: Apache-2.0
"""Triangles to pixels: which pixel centres a triangle covers, and the depth that a camera sees of a mesh.

F triangles, V vertices, M covered pixels. A place on an image is (column, row) in pixels from its upper left corner;
the centre of the first pixel is (0.5, 0.5).
"""

from typing import NamedTuple

import numpy as np

from scene.cameras import RCamera

CANDIDATES = 4_000_000
"""Pixels of bounding boxes that are looked at together."""
EDGE = -1e-6


class Covered(NamedTuple):
    """Pixels with the triangle that covers each; a pixel comes once for each of its triangles."""

    face: np.ndarray  # [M]
    row: np.ndarray  # [M]
    column: np.ndarray  # [M]
    shares: np.ndarray  # [M, 3], the barycentric coordinates of the pixel's centre


def scan(corners: np.ndarray, width_px: int, height_px: int) -> Covered:
    """Pixels of an image whose centres lie in the triangles `corners` [F, 3, 2]. Those of no area cover none."""
    ends = (width_px, height_px)  # first and one past the last pixel whose centre may be inside
    low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, ends).astype(np.int64)
    size = np.clip(np.floor(corners.max(axis=1) + 0.5), 0, ends).astype(np.int64) - low
    total = np.cumsum(size.prod(axis=1))
    found, first = [], 0
    while first < len(corners):
        last = max(int(np.searchsorted(total, (total[first - 1] if first else 0) + CANDIDATES)), first + 1)
        found.append(_scan_some(corners[first:last], low[first:last], size[first:last], first))
        first = last
    return Covered(*(np.concatenate(parts) for parts in zip(*found)))


def _scan_some(corners: np.ndarray, low: np.ndarray, size: np.ndarray, first: int) -> Covered:
    """Two barycentric coordinates are linear on the image: their value at `low` and their slopes, for each face."""
    counts = size.prod(axis=1)
    face = np.repeat(np.arange(len(corners)), counts)
    within = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = np.divmod(within, size[face, 0])
    a, to_b, to_c = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = to_b[:, 0] * to_c[:, 1] - to_b[:, 1] * to_c[:, 0]
    with np.errstate(divide="ignore"):
        area = np.where(area != 0, 1 / area, np.nan)
    shares = [np.empty(0)] * 3
    for k, slope in ((1, to_c * [-1, 1] * area[:, None]), (2, to_b * [1, -1] * area[:, None])):
        across, down = slope[:, 1], slope[:, 0]
        at_low = ((low + 0.5 - a) * np.stack([across, down], axis=1)).sum(axis=1)
        shares[k] = at_low[face] + across[face] * column + down[face] * row
    shares[0] = 1 - shares[1] - shares[2]
    inside = (shares[0] >= EDGE) & (shares[1] >= EDGE) & (shares[2] >= EDGE)  # never where the area is 0
    face = face[inside]
    found = np.stack([share[inside] for share in shares], axis=1)
    return Covered(first + face, low[face, 1] + row[inside], low[face, 0] + column[inside], found)


def project(points: np.ndarray, camera: RCamera) -> tuple[np.ndarray, np.ndarray]:
    """Places on the image [V, 2] and depths along the viewing direction [V] of world points [V, 3]."""
    full, view = (m.cpu().numpy() for m in (camera.full_proj_transform, camera.world_view_transform))
    clip = points.astype(np.float32) @ full[:3, [0, 1, 3]] + full[3, [0, 1, 3]]
    depth = points.astype(np.float32) @ view[:3, 2] + view[3, 2]
    size = np.array([camera.image_width, camera.image_height], np.float32)
    return (clip[:, :2] / clip[:, 2:] + 1) / 2 * size, depth


def depth_of_mesh(vertices: np.ndarray, faces: np.ndarray, camera: RCamera) -> np.ndarray:
    """Depth [H, W] of the nearest surface at each pixel's centre, infinite beside the mesh; all of it is in front."""
    places, depth = project(vertices, camera)
    covered = scan(places[faces], camera.image_width, camera.image_height)
    z = 1 / (covered.shares / depth[faces[covered.face]]).sum(axis=1)  # 1 / z is linear on the image
    image = np.full((camera.image_height, camera.image_width), np.inf)
    np.minimum.at(image, (covered.row, covered.column), z)
    return image
