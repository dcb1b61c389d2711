# SPDX-License-Identifier: Apache-2.0
"""Pinhole-camera mathematics and the point-cloud record, under upstream's names.

Conventions: z is up in the world; a camera looks along its own +z, x to the right, y down. Matrices that leave this
module are not transposed; scene/cameras.py stores them transposed (row vectors), as the rasterizer wants them.
"""

import math
from typing import NamedTuple

import numpy as np
import torch


class BasicPointCloud(NamedTuple):
    """Points of an initial cloud: points [N, 3], colors [N, 3] in [0, 1], normals [N, 3]."""

    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray


def fov2focal(fov_rad: float, pixels: float) -> float:
    """Focal length in pixels of a field of view over `pixels` pixels."""
    return pixels / (2 * math.tan(fov_rad / 2))


def focal2fov(focal_px: float, pixels: float) -> float:
    """Field of view in radians of a focal length in pixels over `pixels` pixels."""
    return 2 * math.atan(pixels / (2 * focal_px))


def getWorld2View2(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """World-to-view matrices from camera records. R [..., 3, 3] camera-to-world, t [..., 3] -> [..., 4, 4] float32."""
    matrix = np.zeros((*np.shape(R)[:-2], 4, 4))
    matrix[..., :3, :3] = np.swapaxes(R, -1, -2)
    matrix[..., :3, 3] = t
    matrix[..., 3, 3] = 1.0
    return matrix.astype(np.float32)


def getProjectionMatrix(znear: float, zfar: float, fovX: float, fovY: float) -> torch.Tensor:
    """Perspective matrix [4, 4] that maps view depth znear..zfar to 0..1, with w = view z. Angles in radians."""
    P = torch.zeros(4, 4)
    P[0, 0] = 1.0 / math.tan(fovX / 2)
    P[1, 1] = 1.0 / math.tan(fovY / 2)
    P[2, 2] = zfar / (zfar - znear)
    P[2, 3] = -(zfar * znear) / (zfar - znear)
    P[3, 2] = 1.0
    return P
