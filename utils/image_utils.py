# SPDX-License-Identifier: Apache-2.0
"""Images: tensors to bytes, disparity to colours, and PNG files."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.general_utils import atomic_path


def to_uint8(image: Tensor) -> np.ndarray:
    """[C, H, W] in [0, 1] (clamped) to uint8 [H, W, 3]; a single channel is repeated."""
    rgb = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return rgb.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def colour_map(disparity: Tensor) -> np.ndarray:
    """[1, H, W] normalised disparity in [0, 1] to an RGB image, uint8 [H, W, 3] (near is warm)."""
    grey = to_uint8(disparity)[..., 0]
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB, whole or not at all; raises OSError when the file cannot be written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    with atomic_path(path) as temporary:  # the page may read it at any time
        temporary.write_bytes(encoded.tobytes())


def read_png(path: Path) -> np.ndarray:
    """Reads an image file as uint8 [H, W, 3] RGB; raises ValueError when it is none, OSError when it is not there."""
    content = np.fromfile(path, np.uint8)  # cv2.imread crashes where the path is not UTF-8
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise ValueError(f"{path} is not an image that OpenCV reads; expected a PNG or JPEG file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
