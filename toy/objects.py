# SPDX-License-Identifier: Apache-2.0
"""The objects of the toy world, built from analytic primitives.

Every object is mirror-symmetric about the plane x = 0 (guidance flips images at random), faces +y (azimuth 0) and is
seen whole from 3.5 units away with a field of view of 0.40 rad (a ball of radius 0.75 holds it). Slot A is the colour
named before the class, slot B the colour of its named part. Objects in ONE_SIDED carry a face or a front on one side
only: they are what shows the Janus problem.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from toy.builders import (
    BLACK,
    CREAM,
    DARK,
    GLASS,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    WHITE,
    WOOD,
    YELLOW,
    A,
    B,
    ball,
    box,
    dome,
    on_ball,
    pair,
    prism,
    ring,
    rod,
    shaded,
    smile,
    tilt_x,
    tube,
)
from toy.shapes import Primitive

Parts = list[Primitive]


def _cube() -> Parts:
    half, dot = 0.34, 0.1
    parts: Parts = [box((0, 0, 0), (half, half, half), A)]
    parts += [tube((0, 0, z), dot, dot, 0.04, B) for z in (half, -half)]
    parts += [rod((0, y, 0), (0, y * 1.06, 0), dot, dot, B) for y in (half, -half)]
    corner = 0.19
    for x, z in ((corner, corner), (corner, -corner)):
        parts += pair(rod((x, half, z), (x, half * 1.06, z), dot * 0.8, dot * 0.8, B))
    for y, z in ((corner, corner), (-corner, -corner)):
        parts += pair(rod((half, y, z), (half * 1.06, y, z), dot, dot, B))
    parts += pair(tube((corner, corner, half), dot * 0.8, dot * 0.8, 0.04, B))
    parts += pair(tube((corner, -corner, half), dot * 0.8, dot * 0.8, 0.04, B))
    return parts


def _sphere() -> Parts:
    return [ball((0, 0, 0), 0.5, A), tube((0, 0, 0), 0.505, 0.505, 0.2, B)]


def _cone() -> Parts:
    low, high, radius = -0.42, 0.56, 0.31
    slope = radius / (high - low)

    def band(z_low: float, z_high: float) -> Primitive:
        r_low, r_high = ((high - z) * slope + 0.012 for z in (z_low, z_high))
        return rod((0, 0, z_low), (0, 0, z_high), r_low, r_high, B)

    base = box((0, 0, -0.45), (0.32, 0.32, 0.04), shaded(A, 0.85))
    return [rod((0, 0, low), (0, 0, high), radius, 0.0, A), base, band(-0.24, -0.04), band(0.14, 0.28)]


def _cylinder() -> Parts:
    body = tube((0, 0, -0.06), 0.34, 0.34, 0.84, A)
    lid = tube((0, 0, 0.40), 0.37, 0.37, 0.14, B)
    foot = tube((0, 0, -0.47), 0.36, 0.36, 0.06, B)
    return [body, lid, foot, ball((0, 0, 0.5), 0.07, B)]


def _donut() -> Parts:
    parts: Parts = [ring((0, 0, 0), 0.36, 0.19, A), ring((0, 0, 0.015), 0.36, 0.197, B, z_min=0.03)]
    sprinkles = (RED, YELLOW, WHITE, GLASS)
    for k, azimuth in enumerate(np.radians([12, 48, 80, 112, 140, 168])):
        radius = (0.30, 0.44, 0.33, 0.42, 0.31, 0.40)[k]
        height = 0.015 + np.sqrt(0.197**2 - (radius - 0.36) ** 2)
        at = (radius * np.sin(azimuth), radius * np.cos(azimuth), height)
        parts += pair(ball(at, 0.035, sprinkles[k % 4]))
    return parts


def _snowman() -> Parts:
    head, middle, bottom = (0, 0, 0.27), (0, 0, 0.03), (0, 0, -0.31)
    parts: Parts = [ball(bottom, 0.28, A), ball(middle, 0.21, A), ball(head, 0.165, A)]
    parts += [tube((0, 0, 0.39), 0.19, 0.19, 0.035, B), tube((0, 0, 0.49), 0.12, 0.115, 0.19, B)]
    parts += [ring((0, 0, 0.145), 0.125, 0.05, B)]
    parts += [rod((0, 0.14, 0.26), (0, 0.36, 0.24), 0.048, 0.0, ORANGE)]
    parts += pair(ball(on_ball(head, 0.165, 27, 16), 0.034, BLACK))
    parts += [ball(on_ball(middle, 0.205, 0, e), 0.034, BLACK) for e in (18, -16)]
    parts += [ball(on_ball(bottom, 0.27, 0, e), 0.034, BLACK) for e in (32, 8)]
    parts += pair(rod((0.17, 0, 0.07), (0.46, 0.03, 0.22), 0.024, 0.018, WOOD))
    parts += pair(rod((0.38, 0.02, 0.18), (0.42, 0.02, 0.30), 0.018, 0.014, WOOD))
    return parts


def _robot() -> Parts:
    parts: Parts = [box((0, 0, 0.17), (0.27, 0.2, 0.2), A), box((0, 0, -0.24), (0.2, 0.15, 0.18), A)]
    parts += [box((0, 0.195, 0.17), (0.225, 0.02, 0.15), DARK), tube((0, 0, -0.05), 0.09, 0.09, 0.06, GREY)]
    parts += pair(ball((0.105, 0.21, 0.22), 0.068, YELLOW, squash_y=0.5))
    parts += pair(ball((0.105, 0.245, 0.22), 0.028, BLACK, squash_y=0.5))
    parts += [box((0, 0.21, 0.07), (0.12, 0.02, 0.026), RED)]
    parts += [rod((0, 0, 0.37), (0, 0, 0.50), 0.022, 0.022, GREY), ball((0, 0, 0.53), 0.06, B)]
    parts += pair(rod((0.27, 0, 0.17), (0.34, 0, 0.17), 0.085, 0.07, B))
    parts += pair(rod((0.25, 0, -0.12), (0.33, 0.06, -0.36), 0.06, 0.06, B))
    parts += pair(box((0.11, 0.02, -0.49), (0.075, 0.11, 0.075), B))
    parts += [box((0, 0.15, -0.2), (0.12, 0.02, 0.07), WHITE)]
    parts += pair(ball((0.055, 0.17, -0.2), 0.03, RED))
    parts += [box((0, -0.16, -0.22), (0.13, 0.05, 0.1), GREY)]
    return parts


def _mug() -> Parts:
    y = 0.1
    parts: Parts = [tube((0, y, 0), 0.33, 0.36, 0.7, A), tube((0, y, 0.345), 0.30, 0.30, 0.03, WOOD)]
    parts += [ring((0, y, 0.345), 0.335, 0.032, A), tube((0, y, -0.36), 0.30, 0.31, 0.04, shaded(A, 0.8))]
    parts += [ring((0, -0.29, 0.0), 0.19, 0.06, B, axis="x")]
    front = (0, y, 0)
    parts += pair(ball(on_ball(front, 0.35, 24, 14), 0.056, BLACK))
    parts += pair(ball(on_ball(front, 0.35, 42, -4), 0.05, PINK))
    parts += smile(front, 0.35, half_width_deg=20, z_middle=-0.10, dip=0.07, r=0.026)
    return parts


def _house() -> Parts:
    parts: Parts = [box((0, 0, -0.26), (0.33, 0.33, 0.22), A)]
    parts += [prism([(-0.43, -0.06), (0.43, -0.06), (0, 0.36)], half_length=0.38, paint=B)]
    parts += [prism([(-0.31, -0.05), (0.31, -0.05), (0, 0.27)], half_length=0.385, paint=A)]
    parts += [
        box((0, -0.16, 0.32), (0.07, 0.07, 0.16), shaded(WOOD, 0.9)),
        box((0, 0, -0.48), (0.34, 0.34, 0.02), GREY),
    ]
    parts += [box((0, 0.33, -0.32), (0.085, 0.025, 0.15), WOOD), ball((0.045, 0.36, -0.33), 0.02, YELLOW)]
    parts += [ball((-0.045, 0.36, -0.33), 0.02, YELLOW)]
    parts += [rod((0, 0.38, 0.07), (0, 0.40, 0.07), 0.085, 0.085, WHITE)]
    for at, half in (((0.215, 0.33, -0.2), (0.085, 0.02, 0.085)), ((0.33, 0, -0.2), (0.02, 0.1, 0.09))):
        glass = tuple(h * (0.72 if h > 0.05 else 1.6) for h in half)
        parts += pair(box(at, half, WHITE)) + pair(box(at, glass, GLASS))
    return parts


def _rocket() -> Parts:
    parts: Parts = [tube((0, 0, -0.08), 0.2, 0.2, 0.5, A), dome((0, 0, 0.17), (0.2, 0.2, 0.4), B)]
    parts += [rod((0, 0, -0.33), (0, 0, -0.41), 0.2, 0.12, GREY), rod((0, 0, -0.41), (0, 0, -0.61), 0.10, 0.0, ORANGE)]
    fin = [(0.18, -0.10), (0.42, -0.34), (0.42, -0.48), (0.18, -0.34)]
    parts += pair(prism(fin, half_length=0.03, paint=B))
    parts += [prism(fin, half_length=0.03, paint=B, quarter_turns=k) for k in (1, 3)]
    parts += [
        rod((0, 0.17, 0.07), (0, 0.225, 0.07), 0.115, 0.10, WHITE),
        ball((0, 0.2, 0.07), 0.078, GLASS, squash_y=0.6),
    ]
    return parts + [tube((0, 0, -0.14), 0.204, 0.204, 0.05, WHITE)]


def _table() -> Parts:
    parts: Parts = [box((0, 0, 0.17), (0.46, 0.36, 0.045), A), box((0, 0, 0.08), (0.36, 0.27, 0.05), shaded(A, 0.75))]
    for y in (0.27, -0.27):
        parts += pair(rod((0.36, y, 0.13), (0.38, y, -0.42), 0.055, 0.04, B))
    parts += [box((0, 0.27, 0.07), (0.2, 0.03, 0.055), CREAM), ball((0, 0.31, 0.07), 0.032, BLACK)]
    parts += [tube((0, 0, 0.27), 0.07, 0.10, 0.12, B), ball((0, 0, 0.41), 0.11, GREEN)]
    parts += pair(ball((0.075, 0.03, 0.43), 0.05, RED)) + [
        ball((0, 0.07, 0.47), 0.05, YELLOW),
        ball((0, -0.06, 0.47), 0.05, PINK),
    ]
    return parts


def _mushroom() -> Parts:
    parts: Parts = [rod((0, 0, -0.52), (0, 0, 0.06), 0.21, 0.15, B), dome((0, 0, 0.0), (0.5, 0.5, 0.44), A)]
    parts += [rod((0, 0, -0.015), (0, 0, 0.012), 0.42, 0.49, CREAM)]
    for azimuth, elevation, size in ((0, 42, 0.11), (62, 20, 0.09), (125, 42, 0.11), (180, 20, 0.09)):
        spot = ball(on_ball((0, 0, 0), (0.48, 0.48, 0.42), azimuth, elevation), size, WHITE)
        parts += [spot] if azimuth % 180 == 0 else pair(spot)
    parts += [ball((0, 0, 0.4), 0.10, WHITE)]
    parts += pair(ball(on_ball((0, 0, -0.2), 0.175, 26, 0), 0.042, BLACK))
    return parts + smile((0, 0, -0.2), 0.183, half_width_deg=22, z_middle=-0.08, dip=0.035, r=0.02)


def _car() -> Parts:
    body = [(0.54, -0.20), (0.54, -0.03), (0.46, 0.03), (-0.50, 0.05), (-0.55, -0.03), (-0.55, -0.20)]
    cabin = [(0.24, 0.02), (0.08, 0.26), (-0.30, 0.26), (-0.42, 0.02)]
    glass = [(0.20, 0.06), (0.07, 0.22), (-0.28, 0.22), (-0.37, 0.06)]
    parts: Parts = [
        prism(body, half_length=0.25, paint=A, quarter_turns=1),
        prism(cabin, half_length=0.215, paint=B, quarter_turns=1),
    ]
    parts += [prism(glass, half_length=0.225, paint=GLASS, quarter_turns=1)]
    parts += [box((0, -0.1, 0.14), (0.235, 0.025, 0.12), B)]
    windscreen = tilt_x(box((0, 0.17, 0.145), (0.18, 0.02, 0.085), GLASS), 33)
    rear = tilt_x(box((0, -0.37, 0.145), (0.17, 0.02, 0.08), GLASS), -26)
    parts += [windscreen, rear]
    for y in (0.33, -0.33):
        parts += pair(rod((0.18, y, -0.2), (0.275, y, -0.2), 0.13, 0.13, BLACK))
        parts += pair(rod((0.26, y, -0.2), (0.285, y, -0.2), 0.07, 0.07, WHITE))
    parts += pair(ball((0.16, 0.535, -0.05), 0.062, YELLOW, squash_y=0.5)) + [
        box((0, 0.54, -0.13), (0.13, 0.015, 0.04), DARK)
    ]
    return parts + pair(box((0.17, -0.55, -0.05), (0.06, 0.02, 0.04), ORANGE))


def _cat() -> Parts:
    head = (0, 0.08, 0.2)
    parts: Parts = [ball((0, -0.06, -0.24), (0.25, 0.27, 0.31), A), ball(head, (0.26, 0.22, 0.22), A)]
    parts += pair(rod((0.15, 0.06, 0.33), (0.2, 0.05, 0.53), 0.105, 0.0, A))
    parts += pair(rod((0.148, 0.115, 0.35), (0.185, 0.1, 0.48), 0.06, 0.0, PINK))
    parts += [ball((0, 0.13, -0.2), (0.15, 0.1, 0.2), CREAM), ring((0, 0.03, 0.015), 0.15, 0.05, B)]
    parts += pair(ball(on_ball(head, (0.25, 0.21, 0.21), 27, 12), 0.062, YELLOW))
    parts += pair(ball(on_ball(head, (0.285, 0.245, 0.24), 27, 12), 0.034, BLACK))
    parts += pair(ball((0.045, 0.275, 0.125), 0.06, CREAM)) + [ball((0, 0.325, 0.165), 0.032, PINK)]
    parts += pair(ball((0.11, 0.16, -0.48), (0.085, 0.12, 0.07), B))
    parts += [
        rod((0, -0.28, -0.46), (0, -0.46, -0.32), 0.06, 0.06, A),
        rod((0, -0.46, -0.32), (0, -0.45, -0.12), 0.06, 0.055, A),
    ]
    return parts + [
        ball((0, -0.46, -0.32), 0.06, A),
        rod((0, -0.45, -0.13), (0, -0.40, 0.03), 0.055, 0.05, B),
        ball((0, -0.40, 0.03), 0.05, B),
    ]


def _owl() -> Parts:
    parts: Parts = [ball((0, 0, -0.1), (0.33, 0.29, 0.42), A), ball((0, 0.0, 0.24), (0.3, 0.26, 0.24), A)]
    parts += [ball((0, 0.14, -0.14), (0.22, 0.19, 0.29), B)]
    parts += pair(ball((0.31, -0.03, -0.12), (0.08, 0.2, 0.31), shaded(A, 0.62)))
    parts += pair(ball((0.12, 0.225, 0.26), 0.118, WHITE, squash_y=0.5)) + pair(
        ball((0.11, 0.285, 0.26), 0.056, BLACK, squash_y=0.5)
    )
    parts += [rod((0, 0.24, 0.18), (0, 0.36, 0.13), 0.06, 0.0, ORANGE)]
    parts += pair(rod((0.16, 0, 0.4), (0.24, 0.02, 0.57), 0.1, 0.0, shaded(A, 0.62)))
    parts += pair(ball((0.13, 0.16, -0.5), (0.09, 0.13, 0.06), ORANGE))
    return parts + [tilt_x(ball((0, -0.29, -0.36), (0.14, 0.05, 0.2), shaded(A, 0.62)), -25)]


_BUILDERS: dict[str, Callable[[], Parts]] = {
    "cube": _cube,
    "sphere": _sphere,
    "cone": _cone,
    "cylinder": _cylinder,
    "donut": _donut,
    "snowman": _snowman,
    "robot": _robot,
    "mug": _mug,
    "house": _house,
    "rocket": _rocket,
    "table": _table,
    "mushroom": _mushroom,
    "car": _car,
    "cat": _cat,
    "owl": _owl,
}

CLASSES: tuple[str, ...] = tuple(_BUILDERS)
"""All class names."""

PARTS: dict[str, str] = {
    "cube": "dots",
    "sphere": "stripe",
    "cone": "stripes",
    "cylinder": "lid",
    "donut": "icing",
    "snowman": "hat",
    "robot": "arms",
    "mug": "handle",
    "house": "roof",
    "rocket": "fins",
    "table": "legs",
    "mushroom": "stem",
    "car": "roof",
    "cat": "collar",
    "owl": "belly",
}
"""Class name -> the noun that slot B goes by in captions (slot B may colour smaller parts as well)."""

ONE_SIDED: tuple[str, ...] = ("snowman", "robot", "mug", "house", "rocket", "table", "mushroom", "car", "cat", "owl")
"""Classes whose front differs from their back."""
SIDES_ALIKE: tuple[str, ...] = ("cube",)
"""Classes of which a quarter turn leaves the outline."""


@cache
def primitives_of(class_name: str) -> tuple[Primitive, ...]:
    """The solids of one class. An unknown name is a ValueError that lists the known ones."""
    if class_name not in _BUILDERS:
        raise ValueError(f"No toy object is called {class_name!r}; known ones: {', '.join(CLASSES)}.")
    return tuple(_BUILDERS[class_name]())
