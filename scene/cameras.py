# SPDX-License-Identifier: Apache-2.0
"""One camera pose, and how poses become cameras.

World: z up, right-handed. Camera centre for radius r, polar angle theta from +z and azimuth phi:
r (sin theta sin phi, sin theta cos phi, cos theta). B cameras are built together on the CPU and moved to the device
at once. Matrices are stored transposed: a row vector [x y z 1] times world_view_transform is the point in view space.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cograd.regions import Cell
from utils.graphics_utils import focal2fov, fov2focal, getProjectionMatrix, getWorld2View2

ZNEAR = 0.01
ZFAR = 100.0

Range = tuple[float, float]
SPHERICAL_ROUNDING = 1e-4, 1e-6  # degrees of an angle, fraction of a radius: more than float32 matrices lose
POLE_DEG = 0.01  # closer to a pole the azimuth of a float32 camera is lost


@dataclass
class RCamera:
    """A camera. Deltas are relative to the default pose, in degrees (radius: world units), as upstream stores them."""

    uid: int
    R: np.ndarray  # [3, 3] float32, camera-to-world rotation; columns: image right, image down, viewing direction
    T: np.ndarray  # [3] float32, world-to-camera translation
    FoVx: float  # radians
    FoVy: float  # radians
    image_width: int  # px
    image_height: int  # px
    delta_polar: float
    delta_azimuth: float  # in (-180, 180]
    delta_radius: float
    world_view_transform: torch.Tensor  # [4, 4]
    projection_matrix: torch.Tensor  # [4, 4]
    full_proj_transform: torch.Tensor  # [4, 4]
    camera_center: torch.Tensor  # [3]
    znear: float = ZNEAR
    zfar: float = ZFAR

    def to(self, device: str | torch.device) -> "RCamera":
        """The same camera with its tensors on `device`."""
        return dataclasses.replace(
            self,
            world_view_transform=self.world_view_transform.to(device),
            projection_matrix=self.projection_matrix.to(device),
            full_proj_transform=self.full_proj_transform.to(device),
            camera_center=self.camera_center.to(device),
        )


@dataclass(frozen=True)
class Lens:
    """Image size and vertical field of view shared by a batch of cameras."""

    fov_rad: float
    width_px: int
    height_px: int

    def fovs_rad(self) -> tuple[float, float]:
        """(FoVx, FoVy)."""
        return focal2fov(fov2focal(self.fov_rad, self.height_px), self.width_px), self.fov_rad


@dataclass(frozen=True)
class Poses:
    """B poses. Jitter is an offset of centre, target and up vector.

    Angles and radius are what a camera's deltas record: those before jitter in upstream's law, those of `centre` in
    camera_at.
    """

    radius: torch.Tensor  # [B]
    theta_deg: torch.Tensor  # [B]
    phi_deg: torch.Tensor  # [B]
    centre: torch.Tensor  # [B, 3], with its jitter
    target: torch.Tensor  # [B, 3]
    up_offset: torch.Tensor  # [B, 3]


def centre_on_sphere(radius: torch.Tensor, theta_rad: torch.Tensor, phi_rad: torch.Tensor) -> torch.Tensor:
    """Camera centres [B, 3] from radius, polar angle and azimuth [B]."""
    in_plane = radius * torch.sin(theta_rad)
    return torch.stack(
        [in_plane * torch.sin(phi_rad), in_plane * torch.cos(phi_rad), radius * torch.cos(theta_rad)], dim=-1
    )


def spherical(centre: torch.Tensor) -> tuple[float, float, float]:
    """Radius, polar angle and azimuth (degrees, azimuth in [0, 360)) of a camera centre [3]."""
    x, y, z = centre.tolist()
    across = math.hypot(x, y)
    return math.hypot(across, z), math.degrees(math.atan2(across, z)), math.degrees(math.atan2(x, y)) % 360


def kept_within(radius: float, theta_deg: float, phi_deg: float, bounds: Cell) -> tuple[float, float, float]:
    """The place inside `bounds` that reflection at them gives: one inside stays where it is, a uniform one uniform.

    It keeps clear of the bounds, and of the poles, by what float32 matrices lose. The azimuth comes in [0, 360).
    """
    angle, share = SPHERICAL_ROUNDING
    low, high = bounds.theta_deg
    theta_deg = _reflected(theta_deg, bounds.theta_deg, max(angle, POLE_DEG - low), max(angle, POLE_DEG + high - 180))
    middle = sum(bounds.phi_deg) / 2
    nearest = middle + math.remainder(phi_deg - middle, 360)
    at_this_height = angle / max(math.sin(math.radians(theta_deg)), angle)
    phi_deg = _reflected(nearest, bounds.phi_deg, at_this_height, at_this_height) % 360
    radius = _reflected(radius, bounds.radius, share * bounds.radius[1], share * bounds.radius[1])
    return radius, theta_deg, phi_deg


def _reflected(x: float, bounds: Range, low_gap: float, high_gap: float) -> float:
    """x, reflected as often as needed to lie in `bounds` less the gaps, which take half of the width at most."""
    half = (bounds[1] - bounds[0]) / 2
    low, high = bounds[0] + min(low_gap, half), bounds[1] - min(high_gap, half)
    if high <= low:
        return (bounds[0] + bounds[1]) / 2
    return low + abs(math.remainder(x - low, 2 * (high - low)))


def _horizontal(forward: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, 3] at right angles to `forward` and to z; the x axis where forward is along z."""
    across = torch.linalg.cross(forward, forward.new_tensor([[0.0, 0.0, 1.0]]))
    is_vertical = across.norm(dim=-1, keepdim=True) == 0
    return torch.where(is_vertical, forward.new_tensor([[1.0, 0.0, 0.0]]), _normalise(across))


def aim_at(centre: torch.Tensor, target: torch.Tensor, up_offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """R [B, 3, 3] and T [B, 3] of RCamera, for cameras that see `target` in the middle of their image.

    R is a rotation: `up_offset`, added to the upward direction of the image, turns the camera about its viewing axis.
    """
    forward = _normalise(target - centre)
    level = _horizontal(forward)
    up = torch.linalg.cross(level, forward) + up_offset
    right = _normalise(torch.linalg.cross(forward, up))
    R = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    return R, -(R.transpose(1, 2) @ centre[:, :, None])[:, :, 0]


def upstream_look_at(
    centre: torch.Tensor, target: torch.Tensor, up_offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """R [B, 3, 3] and T [B, 3] of RCamera by upstream's law, with its sign of T's x.

    A camera that looks past the origin stands mirrored to the side; the baseline keeps that, CoGrad's cameras do not.
    """
    inverse = np.linalg.inv(look_at(centre, target, up_offset).numpy())
    R = -np.swapaxes(inverse[:, :3, :3], 1, 2)
    R[:, :, 0] = -R[:, :, 0]
    return torch.from_numpy(R), torch.from_numpy(-inverse[:, :3, 3])


def look_at(centre: torch.Tensor, target: torch.Tensor, up_offset: torch.Tensor) -> torch.Tensor:
    """Camera-to-world matrices [B, 4, 4] with rotation columns (-right, up, forward), forward from target to centre."""
    forward = _normalise(centre - target)
    right = _horizontal(forward)
    up = _normalise(torch.linalg.cross(right, forward) + up_offset)
    pose = torch.eye(4).repeat(len(centre), 1, 1)
    pose[:, :3, :3] = torch.stack([-right, up, forward], dim=-1)
    pose[:, :3, 3] = centre
    return pose


def cameras_from_poses(
    poses: Poses,
    lens: Lens,
    default_pose: tuple[float, float, float],
    device: str | torch.device,
    orient: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = aim_at,
) -> list[RCamera]:
    """B cameras. `default_pose` is (polar deg, azimuth deg, radius) from which the deltas are measured.

    `orient` makes R and T of centres, targets and up offsets: aim_at, or upstream_look_at.
    """
    R, T = (x.numpy().astype(np.float32) for x in orient(poses.centre, poses.target, poses.up_offset))
    fov_x, fov_y = lens.fovs_rad()
    projection = getProjectionMatrix(ZNEAR, ZFAR, fov_x, fov_y).T
    world_view = torch.from_numpy(getWorld2View2(R, T)).transpose(1, 2).contiguous()
    full = world_view @ projection
    centre = torch.linalg.inv(world_view)[:, 3, :3]
    on_device = [x.contiguous().to(device, non_blocking=True) for x in (world_view, projection, full, centre)]
    delta_polar, delta_azimuth, delta_radius = _deltas(poses, default_pose)
    return [
        RCamera(
            uid, R[uid], T[uid], fov_x, fov_y, lens.width_px, lens.height_px,
            delta_polar[uid], delta_azimuth[uid], delta_radius[uid],
            on_device[0][uid], on_device[1], on_device[2][uid], on_device[3][uid],
        )
        for uid in range(len(R))
    ]  # fmt: skip


def _deltas(poses: Poses, default_pose: tuple[float, float, float]) -> tuple[list[float], list[float], list[float]]:
    """Differences from the default pose; the azimuth's is wrapped into (-180, 180]."""
    polar, azimuth, radius = default_pose
    turn = [phi - azimuth for phi in poses.phi_deg.tolist()]
    return (
        [theta - polar for theta in poses.theta_deg.tolist()],
        [delta - 360 * math.ceil((delta - 180) / 360) for delta in turn],
        [r - radius for r in poses.radius.tolist()],
    )


def _normalise(x: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last axis; a zero vector stays zero."""
    return x / torch.sqrt(torch.clamp((x * x).sum(-1, keepdim=True), min=1e-20))
