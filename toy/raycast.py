# SPDX-License-Identifier: Apache-2.0
"""Renders toy objects to G-buffers by casting rays at their primitives: numpy only, a few milliseconds a view.

World and camera as in scene.cameras: z up; theta = polar angle, phi = azimuth, both in degrees; camera centre
= radius * (sin theta sin phi, sin theta cos phi, cos theta), looking at the origin, no jitter; one square image with
field of view fov_rad. The light is fixed in the world and lies in the plane x = 0, so that the mirror image of a view
is the view from -phi, and a Gaussian of constant colour (SH degree 0) can be right from all sides.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from toy.objects import primitives_of
from toy.shapes import Primitive

LIGHT_DIRECTION = np.array([0.0, 0.30, 0.954], dtype=np.float32)
AMBIENT = 0.38
NEAR = 1e-3  # a primitive with a corner that is less far away may fill the image
MARGIN_PX = 1  # around what a primitive's corners enclose, for rounding


@dataclass(frozen=True)
class View:
    """One camera pose on the sphere around the origin."""

    theta_deg: float
    phi_deg: float
    radius: float
    fov_rad: float


def camera_centre(view: View) -> np.ndarray:
    """Camera position in the world, [3] float32."""
    theta, phi = np.radians(view.theta_deg), np.radians(view.phi_deg)
    direction = [np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi), np.cos(theta)]
    return (view.radius * np.array(direction)).astype(np.float32)


def camera_axes(view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (right, up, forward) of the camera, forward towards the origin; needs 0 < theta < 180."""
    forward = -camera_centre(view) / view.radius
    right = np.cross(forward, [0.0, 0.0, 1.0])
    length = np.linalg.norm(right)
    if length < 1e-6:
        raise ValueError(
            f"A view from the pole (theta_deg = {view.theta_deg}) has no up direction; use 0 < theta < 180."
        )
    right /= length
    return right.astype(np.float32), np.cross(right, forward).astype(np.float32), forward.astype(np.float32)


def render_gbuffers(
    class_name: str, views: Sequence[View], size_px: int, supersample: int = 2, workers: int = 2
) -> np.ndarray:
    """uint8 [V, 6, H, W]: several views of one object, on `workers` threads (numpy releases the interpreter lock)."""
    primitives = primitives_of(class_name)

    def one(view: View) -> np.ndarray:
        return render_primitives(primitives, view, size_px, supersample)

    if workers <= 1 or len(views) < 4:
        return np.stack([one(view) for view in views])
    with ThreadPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(one, views)))


def render_primitives(primitives: Sequence[Primitive], view: View, size_px: int, supersample: int = 2) -> np.ndarray:
    """uint8 [6, H, W]: fixed colour r, g, b (shaded, premultiplied), shade of slot A, shade of slot B, coverage."""
    grid_px = size_px * supersample
    nearest = np.full((grid_px, grid_px), np.inf, np.float32)
    shade = np.zeros((grid_px, grid_px), np.float32)
    owner = np.zeros((grid_px, grid_px), np.intp)
    centre, axes = camera_centre(view), camera_axes(view)
    tan_half = np.tan(view.fov_rad / 2)
    ndc = ((2 * np.arange(grid_px, dtype=np.float32) + 1) / grid_px - 1) * np.float32(tan_half)
    for index, primitive in enumerate(primitives):
        window = _window(primitive, centre, axes, tan_half, grid_px)
        if window is not None:
            _cast(primitive, index + 1, centre, axes, ndc, window, (nearest, shade, owner))
    table = np.array([(0,) * 6, *[(*p.paint.channels(), 1.0) for p in primitives]], np.float32)  # [1 + N, 6]
    made = np.zeros((size_px, size_px, 6), np.uint8)
    pixels = tuple(_covering(owner, axis, supersample) for axis in (1, 0))
    rows, columns = (slice(span.start * supersample, span.stop * supersample) for span in pixels)
    buffer = table[owner[rows, columns]] * shade[rows, columns, None]
    buffer[..., 5] = owner[rows, columns] > 0
    rays = [buffer[i::supersample, k::supersample] for i in range(supersample) for k in range(supersample)]
    made[pixels] = np.rint(np.clip(sum(rays) / len(rays), 0, 1) * 255)
    return made.transpose(2, 0, 1)


def _covering(owner: np.ndarray, over: int, supersample: int) -> slice:
    """The pixels of the axis other than `over`, from the first to the last one with a ray that hits; none if none."""
    hit = np.flatnonzero(owner.any(axis=over))
    return slice(hit[0] // supersample, hit[-1] // supersample + 1) if len(hit) else slice(0, 0)


def _window(
    primitive: Primitive, centre: np.ndarray, axes: tuple[np.ndarray, ...], tan_half: float, grid_px: int
) -> tuple[slice, slice] | None:
    """Rows and columns that the primitive can touch: those of its corners and MARGIN_PX around; None if it is out of
    the image."""
    right, up, forward = axes
    offsets = primitive.corners - centre
    depth = offsets @ forward
    if depth.min() <= NEAR:
        return slice(0, grid_px), slice(0, grid_px)
    spans = []
    for along in (-(offsets @ up), offsets @ right):
        at_px = (along / depth / tan_half + 1) / 2 * grid_px - 0.5
        first, last = int(np.floor(at_px.min())) - MARGIN_PX, int(np.ceil(at_px.max())) + MARGIN_PX + 1
        spans.append(slice(max(first, 0), min(last, grid_px)))
    if any(span.start >= span.stop for span in spans):
        return None
    return spans[0], spans[1]


def _cast(
    primitive: Primitive,
    label: int,
    centre: np.ndarray,
    axes: tuple[np.ndarray, ...],
    ndc: np.ndarray,
    window: tuple[slice, slice],
    buffers: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Updates depth, shade and owner inside the window where the primitive is nearer than what is there."""
    rows, columns = window
    rotation = primitive.rotation.astype(np.float32)
    right, up, forward = (axis @ rotation for axis in axes)
    directions = forward + ndc[None, columns, None] * right - ndc[rows, None, None] * up  # [h, w, 3], local frame
    origin = (centre - np.asarray(primitive.centre, np.float32)) @ rotation
    t, normal = primitive.hit(origin, directions.reshape(-1, 3))
    nearest, shade, owner = (buffer[rows, columns] for buffer in buffers)
    t = t.reshape(nearest.shape)
    wins = t < nearest
    if not wins.any():
        return
    normal = normal.reshape(*nearest.shape, 3)[wins]
    cosine = normal @ (LIGHT_DIRECTION @ rotation) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    nearest[wins] = t[wins]
    shade[wins] = shade_of(cosine)
    owner[wins] = label


def shade_of(cosine: np.ndarray) -> np.ndarray:
    """Ambient light plus wrapped diffuse light: brightness in [AMBIENT, 1] from the cosine between normal and light."""
    return AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * cosine)
