# SPDX-License-Identifier: Apache-2.0
"""Analytic primitives of the toy world: where a ray meets them, and the surface normal there.

Letters: P rays. Rays arrive in the primitive's own frame as origin [3] and directions [P, 3]; a direction need not
have unit length, `t` is in units of it. Every `hit` returns (t [P], normal [P, 3]): t is inf where the ray misses,
normals are unit length there or not and are normalised by the caller. The camera is taken to be outside the object.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from typing import Self

import numpy as np

Vector = tuple[float, float, float]
Rays = tuple[np.ndarray, np.ndarray]

_TORUS_STEPS = 40
_TORUS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Paint:
    """What a surface is coloured with: fixed rgb plus shares of the two colour slots of the caption."""

    rgb: Vector = (0.0, 0.0, 0.0)
    slot_a: float = 0.0
    slot_b: float = 0.0

    def channels(self) -> tuple[float, ...]:
        """The five G-buffer channels: fixed r, g, b, slot A, slot B."""
        return (*self.rgb, self.slot_a, self.slot_b)


@dataclass(frozen=True)
class Primitive:
    """A convex (or torus) solid in the world: local frame = rotation^T (x - centre)."""

    centre: Vector
    paint: Paint
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3), kw_only=True)

    def local_corners(self) -> np.ndarray:
        """Points [C, 3] of the local frame whose convex hull holds the solid."""
        raise NotImplementedError

    @cached_property
    def corners(self) -> np.ndarray:
        """These points in the world."""
        return np.asarray(self.centre) + self.local_corners() @ self.rotation.T

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> Rays:
        """First meeting of each local ray with the solid."""
        raise NotImplementedError

    def mirrored(self) -> Self:
        """The mirror image in the plane x = 0 (round primitives are symmetric in their local x)."""
        flip = np.diag([-1.0, 1.0, 1.0])
        x, y, z = self.centre
        return replace(self, centre=(-x, y, z), rotation=flip @ self.rotation @ flip)


@dataclass(frozen=True)
class Ellipsoid(Primitive):
    """Ellipsoid with semi-axes `radii`; what lies below local height `z_min` is cut off with a flat face."""

    radii: Vector
    z_min: float = -np.inf

    def local_corners(self) -> np.ndarray:
        return _box(*self.radii)

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> Rays:
        radii = np.asarray(self.radii, dtype=directions.dtype)
        t_near, t_far = _quadratic_roots(*_sphere_coefficients(origin / radii, directions / radii))
        t = _first(t_near, _height(origin, directions, t_near) >= self.z_min)
        normal = (origin + _finite(t)[:, None] * directions) / radii**2
        if np.isfinite(self.z_min):
            t_cut = (self.z_min - origin[2]) / _nonzero(directions[:, 2])
            cut_wins = (t_cut > t_near) & (t_cut < t_far) & (origin[2] < self.z_min)
            t = np.where(cut_wins, t_cut, t)
            normal = np.where(cut_wins[:, None], np.array([0, 0, -1], directions.dtype), normal)
        return t, normal


@dataclass(frozen=True)
class Frustum(Primitive):
    """Round solid along local z: radius runs from `r_bottom` to `r_top` over `height`. Cylinder, cone and disc."""

    r_bottom: float
    r_top: float
    height: float

    def local_corners(self) -> np.ndarray:
        widest = max(self.r_bottom, self.r_top)
        return _box(widest, widest, self.height / 2)

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> Rays:
        half = self.height / 2
        slope = (self.r_top - self.r_bottom) / self.height
        middle = (self.r_top + self.r_bottom) / 2
        dx, dy, dz = directions.T
        r_origin = middle + slope * origin[2]
        a = dx**2 + dy**2 - (slope * dz) ** 2
        b = origin[0] * dx + origin[1] * dy - r_origin * slope * dz
        c = origin[0] ** 2 + origin[1] ** 2 - r_origin**2
        t = np.full(len(directions), np.inf, directions.dtype)
        for root in _quadratic_roots(a, b, c):
            t = np.minimum(t, _first(root, (np.abs(_height(origin, directions, root)) <= half) & (root > 0)))
        point = origin + _finite(t)[:, None] * directions
        radius = middle + slope * point[:, 2]
        normal = np.stack([point[:, 0], point[:, 1], -slope * radius], axis=1)
        return self._with_caps(origin, directions, t, normal, half)

    def _with_caps(
        self, origin: np.ndarray, directions: np.ndarray, t: np.ndarray, normal: np.ndarray, half: float
    ) -> Rays:
        for z, radius in ((-half, self.r_bottom), (half, self.r_top)):
            t_cap = (z - origin[2]) / _nonzero(directions[:, 2])
            at = origin[:2] + t_cap[:, None] * directions[:, :2]
            wins = (at[:, 0] ** 2 + at[:, 1] ** 2 <= radius**2) & (t_cap > 0) & (t_cap < t)
            t = np.where(wins, t_cap, t)
            normal = np.where(wins[:, None], np.array([0, 0, np.sign(z)], directions.dtype), normal)
        return t, normal


@dataclass(frozen=True)
class Hull(Primitive):
    """Convex polyhedron: the points with normals @ x <= offsets (normals [F, 3] of unit length)."""

    normals: np.ndarray
    offsets: np.ndarray

    def local_corners(self) -> np.ndarray:
        """Where three of the planes meet, and no other one cuts."""
        planes = np.array(list(combinations(range(len(self.offsets)), 3)))
        planes = planes[np.abs(np.linalg.det(self.normals[planes])) > 1e-9]
        points = np.linalg.solve(self.normals[planes], self.offsets[planes][..., None])[..., 0]
        return points[(points @ self.normals.T <= self.offsets + 1e-9).all(axis=1)]

    def mirrored(self) -> Self:
        flipped = super().mirrored()
        return replace(flipped, normals=self.normals * np.array([-1.0, 1.0, 1.0]))

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> Rays:
        normals = self.normals.astype(directions.dtype)
        offsets = self.offsets.astype(directions.dtype)
        speed = normals @ directions.T  # [F, P]: NumPy is fast along the last axis only
        t_plane = (offsets - normals @ origin)[:, None] / _nonzero(speed)
        entering = np.where(speed < 0, t_plane, -np.inf)
        t_in = entering.max(axis=0)
        t_out = np.where(speed > 0, t_plane, np.inf).min(axis=0)
        hits = (t_in < t_out) & (t_in > 0)
        normal = np.zeros_like(directions)
        normal[hits] = normals[entering[:, hits].argmax(axis=0)]
        return _first(t_in, hits), normal


@dataclass(frozen=True)
class Torus(Primitive):
    """Torus about local z: `ring_radius` to the middle of a tube of `tube_radius`; cut off below `z_min`."""

    ring_radius: float
    tube_radius: float
    z_min: float = -np.inf

    def local_corners(self) -> np.ndarray:
        outer = self.ring_radius + self.tube_radius + 2 * _TORUS_TOLERANCE
        return _box(outer, outer, self.tube_radius + 2 * _TORUS_TOLERANCE)

    def hit(self, origin: np.ndarray, directions: np.ndarray) -> Rays:
        """Sphere tracing: the distance to a torus is known exactly, and cutting only makes it a lower bound."""
        length = np.linalg.norm(directions, axis=1)
        unit = directions / length[:, None]
        reach = self.ring_radius + self.tube_radius
        t_near, t_far = _quadratic_roots(*_sphere_coefficients(origin / reach, unit / reach))
        t = np.full(len(unit), np.inf, unit.dtype)
        alive = np.flatnonzero(np.isfinite(t_near))
        s = t_near[alive]
        for _ in range(_TORUS_STEPS):
            distance = self._distance(origin + s[:, None] * unit[alive])
            arrived = distance < _TORUS_TOLERANCE
            t[alive[arrived]] = s[arrived]
            s = s + distance
            keep = ~arrived & (s < t_far[alive])
            alive, s = alive[keep], s[keep]
            if not len(alive):
                break
        point = origin + _finite(t)[:, None] * unit
        return t / length, self._normal(point)

    def _distance(self, point: np.ndarray) -> np.ndarray:
        across = np.sqrt(point[:, 0] ** 2 + point[:, 1] ** 2) - self.ring_radius
        return np.maximum(np.sqrt(across**2 + point[:, 2] ** 2) - self.tube_radius, self.z_min - point[:, 2])

    def _normal(self, point: np.ndarray) -> np.ndarray:
        radial = np.sqrt(point[:, 0] ** 2 + point[:, 1] ** 2)
        shrink = 1 - self.ring_radius / np.maximum(radial, 1e-6)
        normal = point * np.stack([shrink, shrink, np.ones_like(shrink)], axis=1)
        on_cut = point[:, 2] < self.z_min + 2 * _TORUS_TOLERANCE
        return np.where(on_cut[:, None], np.array([0, 0, -1], point.dtype), normal)


def _box(x: float, y: float, z: float) -> np.ndarray:
    """The corners of a box of these half sizes."""
    return np.array(list(product((-x, x), (-y, y), (-z, z))))


def _sphere_coefficients(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    return (directions**2).sum(axis=1), directions @ origin, float(origin @ origin) - 1.0


def _quadratic_roots(a: np.ndarray, half_b: np.ndarray, c: np.ndarray | float) -> Rays:
    """Both roots of a t^2 + 2 half_b t + c, smaller first; inf where there is none."""
    discriminant = half_b**2 - a * c
    real = discriminant >= 0
    root = np.sqrt(np.where(real, discriminant, 0))
    a = _nonzero(a)
    first, second = (-half_b - root) / a, (-half_b + root) / a
    near, far = np.minimum(first, second), np.maximum(first, second)
    return np.where(real, near, np.inf), np.where(real, far, np.inf)


def _height(origin: np.ndarray, directions: np.ndarray, t: np.ndarray) -> np.ndarray:
    return origin[2] + _finite(t) * directions[:, 2]


def _finite(t: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(t), t, 0)


def _first(t: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid, t, np.inf)


def _nonzero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-9, np.asarray(1e-9, x.dtype), x)
