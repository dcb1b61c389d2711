# SPDX-License-Identifier: Apache-2.0
"""Where training looks from and what it starts with: pose laws, circle cameras, initial point clouds.

The order in which randomness is consumed is upstream's, so that equal seeds give equal cameras and points. Poses are
drawn on the device of the streams and computed on the CPU; B poses, N points.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cograd.regions import Cell
from scene.cameras import (
    Lens,
    Poses,
    Range,
    RCamera,
    cameras_from_poses,
    centre_on_sphere,
    kept_within,
    spherical,
    upstream_look_at,
)
from scene.gaussian_ply import DC
from scene.ply import open_ply
from scene.ply_columns import MAX_NUMBER, colour_fields, colours, columns, not_finite, out_of_range, usable_rows
from scene.ply_file import PlyError
from scene.point_growing import grow
from scene.text_to_cloud import CloudUnavailable, point_e_cloud, shap_e_cloud
from utils.graphics_utils import BasicPointCloud
from utils.random_streams import RandomStreams
from utils.sh_utils import SH2RGB

if TYPE_CHECKING:
    from arguments import GenerateCamParams, OptimizationParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraRanges:
    """Ranges that random training poses are drawn from."""

    radius: Range
    theta_deg: Range
    phi_deg: Range
    fovy_rad: Range

    @classmethod
    def from_params(cls, cam_params: "GenerateCamParams") -> "CameraRanges":
        """The ranges that the config starts with."""
        p = cam_params
        return cls(p.radius_range, p.theta_range, p.phi_range, p.fovy_range)

    @classmethod
    def after_steps(cls, iteration: int, opt: "OptimizationParams", cam_params: "GenerateCamParams") -> "CameraRanges":
        """The ranges of a run after its step `iteration`; nothing else decides them."""
        ranges = cls.from_params(cam_params)
        for step in range(opt.scale_up_cameras_iter, iteration + 1, opt.scale_up_cameras_iter):
            wider = ranges.at_step(step, opt, cam_params)
            if wider == ranges and step >= opt.progressive_view_iter:
                break  # at the limits
            ranges = wider
        return ranges

    def at_step(self, iteration: int, opt: "OptimizationParams", cam_params: "GenerateCamParams") -> "CameraRanges":
        """The ranges from this iteration on, given those before it: widened where that is due.

        Upstream's flag says the opposite of what it does: ranges are widened unless `use_progressive`.
        """
        widening = not opt.use_progressive and iteration >= opt.progressive_view_iter
        return self.widened(opt, cam_params) if widening and iteration % opt.scale_up_cameras_iter == 0 else self

    def widened(self, optimization_params: "OptimizationParams", cam_params: "GenerateCamParams") -> "CameraRanges":
        """One progressive change: closer, wider lens, larger angles, each held by its max_* range.

        The radius shrinks, so its max_radius_range is a pair of lower limits, one for each end.
        """
        closer = optimization_params.scale_up_factor
        fov_lo, fov_hi = optimization_params.fovy_scale_up_factor
        turn = optimization_params.phi_scale_up_factor
        (near, far), p = self.radius, cam_params
        return CameraRanges(
            radius=(max(near * closer, p.max_radius_range[0]), max(far * closer, p.max_radius_range[1])),
            theta_deg=_within(self.theta_deg[0] * (1 / turn), self.theta_deg[1] * turn, p.max_theta_range),
            phi_deg=_within(self.phi_deg[0] * turn, self.phi_deg[1] * turn, p.max_phi_range),
            fovy_rad=_within(self.fovy_rad[0] * fov_lo, self.fovy_rad[1] * fov_hi, p.max_fovy_range),
        )


@dataclass(frozen=True)
class PoseJitter:
    """Random offsets of B poses: camera centre, looked-at point, up vector; each [B, 3] on the CPU."""

    centre: torch.Tensor
    target: torch.Tensor
    up: torch.Tensor

    @classmethod
    def none(cls, size: int) -> "PoseJitter":
        """No offset."""
        return cls(*(torch.zeros(size, 3) for _ in range(3)))

    @classmethod
    def draw(cls, cam_params: "GenerateCamParams", size: int, streams: RandomStreams) -> "PoseJitter":
        """Offsets as upstream draws them; with jitter_pose off nothing is drawn."""
        if not cam_params.jitter_pose:
            return cls.none(size)
        centre = streams.rand(size, 3).cpu() * cam_params.jitter_center - cam_params.jitter_center / 2.0
        target = streams.randn(size, 3).cpu() * cam_params.jitter_target
        return cls(centre, target, streams.randn(size, 3).cpu() * cam_params.jitter_up)


def random_cameras(
    cam_params: "GenerateCamParams",
    ranges: CameraRanges,
    size: int,
    streams: RandomStreams,
    device: str | torch.device,
) -> list[RCamera]:
    """`size` random training cameras with one field of view, for images of SSAA times the size."""
    radius, theta_deg, phi_deg, centre = _random_centres(cam_params, ranges, size, streams)
    jitter = PoseJitter.draw(cam_params, size, streams)
    fov_rad = ranges.fovy_rad[0] + (ranges.fovy_rad[1] - ranges.fovy_rad[0]) * streams.python.random()
    lens = Lens(fov_rad, cam_params.image_w * cam_params.SSAA, cam_params.image_h * cam_params.SSAA)
    poses = Poses(radius, theta_deg, phi_deg, centre + jitter.centre, jitter.target, jitter.up)
    return cameras_from_poses(poses, lens, _default_pose(cam_params), device, upstream_look_at)


def circle_cameras(
    cam_params: "GenerateCamParams", size: int, device: str | torch.device, render_45: bool = False
) -> list[RCamera]:
    """`size` cameras around the object at the default radius and polar angle; `render_45` adds as many from above.

    They see view_px x view_px pixels, or the size of the training images where that is 0.
    """
    rings = [cam_params.default_polar] + ([cam_params.default_polar * 2 // 3] if render_45 else [])
    theta_deg = torch.tensor([float(polar) for polar in rings for _ in range(size)])
    phi_deg = torch.tensor([ind / size * 360 for _ in rings for ind in range(size)])
    radius = torch.full_like(theta_deg, cam_params.default_radius)
    width_px, height_px = (cam_params.view_px or side for side in (cam_params.image_w, cam_params.image_h))
    lens = Lens(cam_params.default_fovy, width_px, height_px)
    jitter = PoseJitter.none(len(radius))
    centre = centre_on_sphere(radius, theta_deg / 180 * math.pi, phi_deg / 180 * math.pi)
    poses = Poses(radius, theta_deg, phi_deg, centre, jitter.target, jitter.up)
    return cameras_from_poses(poses, lens, _default_pose(cam_params), device, upstream_look_at)


def placed_cameras(
    radius: torch.Tensor,
    theta_deg: torch.Tensor,
    phi_deg: torch.Tensor,
    lens: Lens,
    device: str | torch.device,
    default_pose: tuple[float, float, float],
    jitter: PoseJitter,
    bounds: Sequence[Cell] | None = None,
) -> list[RCamera]:
    """Cameras at chosen places [B] that look at their jittered targets; deltas are those of the jittered centres.

    DECISION: the paper samples a camera in a region's cell and names no jitter; by LucidDreamer's law 31 % of the
    cameras of configs/prompt.yaml would leave their cell. Here an offset of the centre is reflected at the borders of
    the cell (`bounds`), target and up vector only turn the camera, and text and statistics go by the place where it is
    rendered.
    """
    centre = centre_on_sphere(radius, torch.deg2rad(theta_deg), torch.deg2rad(phi_deg)) + jitter.centre
    places = [spherical(one) for one in centre]
    if bounds is not None:
        places = [kept_within(*place, bound) for place, bound in zip(places, bounds, strict=True)]
    radius, theta_deg, phi_deg = torch.tensor(places, dtype=torch.float64).unbind(1)
    centre = centre_on_sphere(radius, torch.deg2rad(theta_deg), torch.deg2rad(phi_deg))
    poses = Poses(radius, theta_deg, phi_deg, centre, jitter.target.double(), jitter.up.double())
    return cameras_from_poses(poses, lens, default_pose, device)


def camera_at(
    radius: float,
    theta_deg: float,
    phi_deg: float,
    fov_rad: float,
    width_px: int,
    height_px: int,
    device: str | torch.device = "cpu",
) -> RCamera:
    """One camera at a chosen place. `fov_rad` is vertical."""
    r, theta, phi = (torch.tensor([value], dtype=torch.float64) for value in (radius, theta_deg, phi_deg))
    lens = Lens(fov_rad, width_px, height_px)
    return placed_cameras(r, theta, phi, lens, device, (90.0, 0.0, 3.5), PoseJitter.none(1))[0]


REACH, SMALLEST = 10, 500
"""Starting points farther from the origin than so many times the cameras' distance, or all nearer than so small a part
of it, are in other units: the one is beyond all that init_shape draws, the other smaller than a pixel."""
XYZ, NORMAL, RGB = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")


def initial_points(cam_params: "GenerateCamParams", streams: RandomStreams) -> BasicPointCloud:
    """The points of `init_shape`, and those that `init_grow` adds."""
    cloud, p = _ungrown(cam_params, streams), cam_params
    return grow(cloud, p.init_grow, p.init_grow_distance, streams.numpy) if p.init_grow else cloud


def _ungrown(cam_params: "GenerateCamParams", streams: RandomStreams) -> BasicPointCloud:
    """`init_num_pts` points of `init_shape` with almost grey colours, drawn from the NumPy stream.

    For pointe and shap_e the cloud is that of init_prompt, for file that of init_file.
    Raises CloudUnavailable (a ValueError) if Point-E or Shap-E is not available and init_fallback is off.
    """
    shape, n, rng = cam_params.init_shape, cam_params.init_num_pts, streams.numpy
    if shape == "file":
        return read_initial(str(cam_params.init_file), cam_params)
    if shape in ("pointe", "shap_e"):
        try:
            return _from_text(cam_params, streams)
        except CloudUnavailable as error:
            if not cam_params.init_fallback:
                raise
            logger.warning("starting from a sphere (init_fallback): %s", error)
            shape = "sphere"
    if shape == "sphere":
        points = _ball(n, rng, lambda u: 0.5 * u)
    elif shape == "scene":
        points = _ball(n, rng, lambda u: u + 3 * cam_params.radius_range[-1])
    elif shape == "box":
        points = rng.random_sample((n, 3)) - 0.5
    else:
        sides = np.array([0.6, 1.2, 0.5] if shape == "rectangle_x" else [0.8, 0.6, 1.2])
        points = rng.random_sample((n, 3)) * sides - sides / 2
    return BasicPointCloud(points, _almost_grey(n, rng), np.zeros((n, 3)))


def _almost_grey(n: int, rng: np.random.RandomState) -> np.ndarray:
    return SH2RGB(rng.random_sample((n, 3)) / 255.0)


def _from_text(cam_params: "GenerateCamParams", streams: RandomStreams) -> BasicPointCloud:
    """Upstream's cloud from a text: y mirrored, 0.15 up, each point replaced by the same small ball of points.

    init_num_pts counts 5000 for each of the ball's points, of which there is at least one. Grey, unless use_pointe_rgb.
    """
    p, rng = cam_params, streams.numpy
    if p.init_shape == "pointe":
        cloud = point_e_cloud(p.init_prompt, streams)
    else:
        cloud = shap_e_cloud(p.init_prompt, p.shap_e_model_key, streams)
    centres = cloud.points * [1, -1, 1] + [0, 0, 0.15]
    copies = max(p.init_num_pts // 5000, 1)
    ball = _ball(copies, rng, lambda u: 0.05 * u)
    points = (centres[:, None] + ball).reshape(-1, 3)
    noise = rng.random_sample((len(centres), copies, 3)) * 1e-4
    colors = (cloud.rgb[:, None] + noise).reshape(-1, 3) if p.use_pointe_rgb else _almost_grey(len(points), rng)
    return BasicPointCloud(points, colors, np.zeros_like(points))


def initial_vertices(cloud: BasicPointCloud) -> np.ndarray:
    """The rows of init_points3d.ply: x y z nx ny nz (f4) red green blue (u1, truncated to /255).

    ValueError for no numbers.
    """
    names = [(name, "f4") for name in (*XYZ, *NORMAL)] + [(name, "u1") for name in RGB]
    vertices = np.empty(len(cloud.points), dtype=names)
    numbers = np.concatenate([cloud.points, cloud.normals, np.clip(cloud.colors * 255, 0, 255)], axis=1)
    if not (np.abs(numbers) <= MAX_NUMBER).all():
        raise ValueError(f"the initial points hold NaN, infinity or more than {MAX_NUMBER:g}")
    for (name, _), column in zip(names, numbers.T, strict=True):
        vertices[name] = column
    return vertices


def read_initial(path: str | PathLike[str], cam_params: "GenerateCamParams") -> BasicPointCloud:
    """`read_point_cloud`, of points that a training starts from: refused where all are out of the cameras' reach.

    A scan in millimetres, or in a country's coordinates, would train an empty image. Raises PlyError (a ValueError).
    """
    cloud = read_point_cloud(path)
    distance = np.linalg.norm(cloud.points.astype(np.float64), axis=1)
    seen_from = max(cam_params.default_radius, *cam_params.radius_range)
    beyond = distance > REACH * seen_from
    lie = f"lie {distance.min():.3g} to {distance.max():.3g} units from the origin"
    looked_at = f"which cameras see from up to {seen_from:g} units away: move and rescale them"
    if beyond.all():
        raise PlyError(f"the points of {path} {lie}; expected some within {REACH * seen_from:g} of it, {looked_at}")
    if beyond.any():
        logger.warning("%s of %s points of %s are far away: they %s, %s",
                       f"{int(beyond.sum()):,}", f"{len(beyond):,}", path, lie, looked_at)  # fmt: skip
    elif len(distance) > 1 and distance.max() < seen_from / SMALLEST:
        logger.warning("the points of %s are too small to be seen apart: they %s, %s", path, lie, looked_at)
    return cloud


def read_point_cloud(path: str | PathLike[str]) -> BasicPointCloud:
    """Points, colours and normals of a PLY file as any program writes them.

    Gaussians give their base colours. Without colours the points are grey, without normals those are zero. Raises
    PlyError (a ValueError).
    """
    path = Path(path)
    with open_ply(path) as ply:
        names = ply.fields
        rgb = colour_fields(names)
        of_colour = rgb or (DC if set(DC) <= set(names) else ())
        has_normals = set(NORMAL) <= set(names)
        vertices = ply.vertices((*XYZ, *of_colour, *(NORMAL if has_normals else ())))
    if rgb is not None:
        colors = colours(path, vertices, rgb)
    elif of_colour:
        colors = np.clip(SH2RGB(np.stack(list(columns(vertices, DC).values()), axis=1)), 0, 1)
    else:
        logger.warning("%s has no colours (red, green, blue); its points begin grey", path)
        colors = np.full((len(vertices), 3), 0.5)
    table = columns(vertices, XYZ)
    bad = out_of_range({**table, **dict(zip(of_colour, colors.T))})
    kept = usable_rows(path, len(vertices), not_finite(bad))
    points = np.stack([table[name] for name in XYZ], axis=1)[kept].astype(np.float32)
    normals = np.zeros_like(points)
    if has_normals:
        normals = np.stack(list(columns(vertices, NORMAL).values()), axis=1)[kept].astype(np.float32)
        normals[~np.isfinite(normals).all(axis=1)] = 0
    return BasicPointCloud(points, colors[kept], normals)


def cloud_of_vertices(vertices: np.ndarray) -> BasicPointCloud:
    """The cloud of `initial_vertices`, as `read_point_cloud` reads it from their file."""
    points, normals = (np.stack([vertices[name] for name in names], axis=1) for names in (XYZ, NORMAL))
    return BasicPointCloud(points, np.stack([vertices[name] for name in RGB], axis=1) / 255.0, normals)


def load_or_sample_points(
    path: Path, cam_params: "GenerateCamParams", streams: RandomStreams, is_stale: bool = False
) -> tuple[BasicPointCloud, np.ndarray | None]:
    """The cloud at `path`, or a sampled one where there is no file or it is stale, and the rows to write there.

    A sampled cloud is what would be read from its file: colours are whole numbers of 1/255 there. None: nothing to
    write. Nothing is written yet.
    """
    if path.exists() and not is_stale:
        return read_initial(path, cam_params), None
    vertices = initial_vertices(initial_points(cam_params, streams))
    return cloud_of_vertices(vertices), vertices


def _within(low: float, high: float, limits: Range) -> Range:
    return min(max(low, limits[0]), limits[1]), min(high, limits[1])


def _default_pose(cam_params: "GenerateCamParams") -> tuple[float, float, float]:
    return cam_params.default_polar, cam_params.default_azimuth, cam_params.default_radius


def _sample_range(limits: Range, gamma: float, size: int, streams: RandomStreams) -> torch.Tensor:
    """mid + half * s * u^gamma with u uniform and s a random sign: [size] on the CPU."""
    u = streams.rand(size).cpu()
    sign = torch.where(streams.rand(size).cpu() > 0.5, -1.0, 1.0)
    return (limits[0] + limits[1]) / 2 + (limits[1] - limits[0]) / 2 * sign * u**gamma


def _random_centres(
    cam_params: "GenerateCamParams", ranges: CameraRanges, size: int, streams: RandomStreams
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Radius, theta_deg, phi_deg in [0, 360) [B] and centre [B, 3] without jitter."""
    radius = _sample_range(ranges.radius, 1.0, size, streams)
    if streams.python.random() < cam_params.uniform_sphere_rate:
        return radius, *_uniform_directions(radius, streams)
    theta, phi = (
        _sample_range((math.radians(limits[0]), math.radians(limits[1])), cam_params.rand_cam_gamma, size, streams)
        for limits in (ranges.theta_deg, ranges.phi_deg)
    )
    phi = torch.where(phi < 0, phi + 2 * math.pi, phi)
    return radius, theta / math.pi * 180, phi / math.pi * 180, centre_on_sphere(radius, theta, phi)


def _uniform_directions(
    radius: torch.Tensor, streams: RandomStreams
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Upstream's half-sphere y > 0. Its angles are read as if y were up, unlike in the rest of its world: kept."""
    x, y, z = (streams.randn(len(radius)).cpu() for _ in range(3))
    direction = torch.nn.functional.normalize(torch.stack([x, y.abs(), z], dim=-1), dim=-1)
    theta = torch.acos(direction[:, 1])
    phi = torch.atan2(direction[:, 0], direction[:, 2])
    phi = torch.where(phi < 0, phi + 2 * math.pi, phi)
    return theta / math.pi * 180, phi / math.pi * 180, direction * radius[:, None]


def _ball(n: int, rng: np.random.RandomState, radius_of) -> np.ndarray:
    """Points [n, 3] from uniform polar angle, azimuth and radius, drawn in that order (denser at centre and poles)."""
    theta, phi, radius = rng.rand(n) * math.pi, rng.rand(n) * 2 * math.pi, radius_of(rng.rand(n))
    in_plane = radius * np.sin(theta)
    return np.stack([in_plane * np.sin(phi), in_plane * np.cos(phi), radius * np.cos(theta)], axis=1)
