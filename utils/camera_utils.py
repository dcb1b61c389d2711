# SPDX-License-Identifier: Apache-2.0
"""Cameras as the JSON that 3D Gaussian Splatting viewers read (cameras.json)."""

from typing import Any

import numpy as np

from utils.graphics_utils import fov2focal, getWorld2View2


def camera_to_JSON(ind: int, camera: Any) -> dict[str, Any]:
    """Record of an RCamera: position and camera-to-world rotation in world space, focal lengths and sides in pixels."""
    pose = np.linalg.inv(getWorld2View2(camera.R, camera.T).astype(np.float64))
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
