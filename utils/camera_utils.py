# SPDX-License-Identifier: Apache-2.0
"""Cameras as the JSON that 3D Gaussian Splatting viewers read (cameras.json)."""

from typing import Any

import numpy as np

from utils.graphics_utils import fov2focal


def camera_to_JSON(ind: int, camera: Any) -> dict[str, Any]:
    """Record of an RCamera: position and camera-to-world rotation in world space, focal lengths and sides in pixels."""
    world_to_view = np.zeros((4, 4))
    world_to_view[:3, :3] = camera.R.T
    world_to_view[:3, 3] = camera.T
    world_to_view[3, 3] = 1.0
    pose = np.linalg.inv(world_to_view)
    return {
        "id": ind,
        "img_name": ind,
        "width": camera.image_width,
        "height": camera.image_height,
        "position": pose[:3, 3].tolist(),
        "rotation": pose[:3, :3].tolist(),
        "fy": fov2focal(camera.FoVy, camera.image_height),
        "fx": fov2focal(camera.FoVx, camera.image_width),
    }
