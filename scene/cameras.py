# SPDX-License-Identifier: Apache-2.0
"""One camera pose, and how poses become cameras.

World: z up, right-handed. Camera centre for radius r, polar angle theta from +z and azimuth phi:
r (sin theta sin phi, sin theta cos phi, cos theta). B cameras are built together on the CPU and moved to the device
at once. Matrices are stored transposed: a row vector [x y z 1] times world_view_transform is the point in view space.
"""

from dataclasses import dataclass

import numpy as np
import torch

from utils.graphics_utils import focal2fov, fov2focal, getProjectionMatrix, getWorld2View2

ZNEAR = 0.01
ZFAR = 100.0


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


@dataclass(frozen=True)
class Lens:
    """Picture size and field of view shared by a batch of cameras.

    `fov_rad` is vertical. Upstream applies it horizontally and derives the vertical one from the sides exchanged;
    `swap_fov=True` keeps that fault, which square images do not show, for comparison with recorded runs.
    """

    fov_rad: float
    width_px: int
    height_px: int
    swap_fov: bool = False

    def fovs_rad(self) -> tuple[float, float]:
        """(FoVx, FoVy)."""
        other = focal2fov(fov2focal(self.fov_rad, self.height_px), self.width_px)
        return (self.fov_rad, other) if self.swap_fov else (other, self.fov_rad)


@dataclass(frozen=True)
class Poses:
    """B poses. Angles and radius describe them before jitter, the offset of centre, target and up vector."""

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


def look_at(centre: torch.Tensor, target: torch.Tensor, up_offset: torch.Tensor) -> torch.Tensor:
    """Camera-to-world matrices [B, 4, 4] with rotation columns (-right, up, forward), forward from target to centre."""
    forward = _normalise(centre - target)
    right = _normalise(torch.linalg.cross(forward, torch.tensor([[0.0, 0.0, 1.0]])))
    up = _normalise(torch.linalg.cross(right, forward) + up_offset)
    pose = torch.eye(4).repeat(len(centre), 1, 1)
    pose[:, :3, :3] = torch.stack([-right, up, forward], dim=-1)
    pose[:, :3, 3] = centre
    return pose


def cameras_from_poses(
    poses: Poses, lens: Lens, default_pose: tuple[float, float, float], device: str | torch.device
) -> list[RCamera]:
    """B cameras. `default_pose` is (polar deg, azimuth deg, radius) from which the deltas are measured.

    Upstream's sign of T's x is kept: a camera that looks past the origin stands mirrored to the side.
    """
    inverse = np.linalg.inv(look_at(poses.centre, poses.target, poses.up_offset).numpy())
    R = -np.swapaxes(inverse[:, :3, :3], 1, 2)
    R[:, :, 0] = -R[:, :, 0]
    T = -inverse[:, :3, 3]
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
    """Differences from the default pose; the azimuth's is wrapped into (-180, 180] by subtracting 360."""
    polar, azimuth, radius = default_pose
    turn = [phi - azimuth for phi in poses.phi_deg.tolist()]
    return (
        [theta - polar for theta in poses.theta_deg.tolist()],
        [delta - 360 if delta > 180 else delta for delta in turn],
        [r - radius for r in poses.radius.tolist()],
    )


def _normalise(x: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last axis; a zero vector stays zero."""
    return x / torch.sqrt(torch.clamp((x * x).sum(-1, keepdim=True), min=1e-20))
