# SPDX-License-Identifier: Apache-2.0
"""Short names for building toy objects out of primitives: balls, boxes, tubes, rods, rings, prisms, and paints."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from toy.shapes import Ellipsoid, Frustum, Hull, Paint, Primitive, Torus, Vector

A = Paint(slot_a=1.0)
B = Paint(slot_b=1.0)
BLACK = Paint((0.06, 0.06, 0.08))
DARK = Paint((0.16, 0.18, 0.24))
GREY = Paint((0.55, 0.57, 0.60))
WHITE = Paint((1.0, 1.0, 1.0))
CREAM = Paint((1.0, 0.93, 0.80))
WOOD = Paint((0.50, 0.30, 0.16))
ORANGE = Paint((1.0, 0.52, 0.08))
YELLOW = Paint((1.0, 0.88, 0.20))
RED = Paint((0.92, 0.16, 0.16))
PINK = Paint((1.0, 0.55, 0.66))
GREEN = Paint((0.28, 0.66, 0.30))
GLASS = Paint((0.50, 0.80, 0.98))


def shaded(paint: Paint, factor: float) -> Paint:
    """The same paint, darker by `factor`."""
    r, g, b = paint.rgb
    return Paint((r * factor, g * factor, b * factor), paint.slot_a * factor, paint.slot_b * factor)


def ball(at: Vector, radius: float | Vector, paint: Paint, squash_y: float = 1.0) -> Ellipsoid:
    """Sphere or ellipsoid; squash_y flattens it along y."""
    x, y, z = (radius, radius, radius) if isinstance(radius, int | float) else radius
    return Ellipsoid(at, paint, radii=(x, y * squash_y, z))


def dome(at: Vector, radii: Vector, paint: Paint) -> Ellipsoid:
    """Upper half of an ellipsoid."""
    return Ellipsoid(at, paint, radii=radii, z_min=0.0)


def box(at: Vector, half: Sequence[float], paint: Paint) -> Hull:
    """Box with half sizes along x, y, z."""
    normals = np.concatenate([np.eye(3), -np.eye(3)])
    return Hull(at, paint, normals=normals, offsets=np.tile(np.asarray(half, float), 2))


def tube(at: Vector, r_bottom: float, r_top: float, height: float, paint: Paint) -> Frustum:
    """Upright cylinder, cone or disc centred at `at`."""
    return Frustum(at, paint, r_bottom=r_bottom, r_top=r_top, height=height)


def rod(start: Vector, end: Vector, r_start: float, r_end: float, paint: Paint) -> Frustum:
    """Round bar from `start` to `end`."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    axis = (b - a) / np.linalg.norm(b - a)
    helper = np.array([0.0, 1.0, 0.0]) if abs(axis[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
    side = np.cross(helper, axis)
    side /= np.linalg.norm(side)
    rotation = np.stack([side, np.cross(axis, side), axis], axis=1)
    x, y, z = ((a + b) / 2).tolist()
    height = float(np.linalg.norm(b - a))
    return Frustum((x, y, z), paint, r_bottom=r_start, r_top=r_end, height=height, rotation=rotation)


def ring(
    at: Vector, ring_radius: float, tube_radius: float, paint: Paint, axis: str = "z", z_min: float = -np.inf
) -> Torus:
    """Torus about the z axis, or about the x axis (then it lies in the plane of symmetry)."""
    rotation = np.eye(3) if axis == "z" else np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    return Torus(at, paint, ring_radius=ring_radius, tube_radius=tube_radius, z_min=z_min, rotation=rotation)


def prism(corners: Sequence[tuple[float, float]], half_length: float, paint: Paint, quarter_turns: int = 0) -> Hull:
    """Convex outline (x, z) drawn out to +-half_length along y, then turned about z by quarter turns (x to y)."""
    outline = np.asarray(corners, float)
    middle = outline.mean(axis=0)
    edges = np.roll(outline, -1, axis=0) - outline
    outward = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    gap = (outward * (outline - middle)).sum(axis=1)
    outward, gap = outward * np.sign(gap)[:, None], np.abs(gap)
    sides = np.insert(outward, 1, 0.0, axis=1)
    normals = np.concatenate([sides, [[0, 1, 0], [0, -1, 0]]])
    turn = np.linalg.matrix_power(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), quarter_turns)
    centre = turn @ np.array([middle[0], 0.0, middle[1]])
    at = (float(centre[0]), float(centre[1]), float(centre[2]))
    return Hull(at, paint, normals=normals, offsets=np.append(gap, [half_length] * 2), rotation=turn)


def pair(primitive: Primitive) -> list[Primitive]:
    """The primitive and its mirror image in the plane x = 0."""
    return [primitive, primitive.mirrored()]


def tilt_x(primitive: Primitive, angle_deg: float) -> Primitive:
    """Turned about the x axis through its own centre: keeps the mirror symmetry."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return replace(primitive, rotation=np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]]) @ primitive.rotation)


def on_ball(centre: Vector, radius: float | Vector, azimuth_deg: float, elevation_deg: float) -> Vector:
    """Point of an ellipsoid's surface (parametric angles), azimuth 0 at +y."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    direction = np.array([np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)])
    x, y, z = np.asarray(centre, float) + np.asarray(radius, float) * direction
    return (float(x), float(y), float(z))


def smile(
    centre: Vector, radius: float, half_width_deg: float, z_middle: float, dip: float, r: float
) -> list[Primitive]:
    """A curved mouth of small black balls on the front of an upright round body; z_middle is relative to the centre."""
    parts: list[Primitive] = []
    steps = 4
    for k in range(steps + 1):
        azimuth = np.radians(half_width_deg * k / steps)
        z = centre[2] + z_middle - dip * (1 - (k / steps) ** 2)
        mark = ball((radius * float(np.sin(azimuth)), centre[1] + radius * float(np.cos(azimuth)), z), r, BLACK)
        parts += [mark] if k == 0 else pair(mark)
    return parts
