# SPDX-License-Identifier: Apache-2.0
"""Turns a G-buffer into an image: the caption's two colours and a background are put in when they are known."""

from collections.abc import Sequence

import numpy as np

Colour = Sequence[float] | np.ndarray


def compose(gbuffer: np.ndarray, colour_a: Colour, colour_b: Colour, background: Colour) -> np.ndarray:
    """float32 [..., 3, H, W] in [0, 1] from uint8 [..., 6, H, W] and three rgb colours [..., 3] or [3] in [0, 1]."""
    if gbuffer.shape[-3] != 6:
        raise ValueError(f"A G-buffer has shape [..., 6, H, W]; this one has {tuple(gbuffer.shape)}.")
    planes = gbuffer.astype(np.float32) / 255
    a, b, ground = (np.asarray(colour, np.float32)[..., None, None] for colour in (colour_a, colour_b, background))
    image = planes[..., 0:3, :, :] + a * planes[..., 3:4, :, :] + b * planes[..., 4:5, :, :]
    return np.clip(image + ground * (1 - planes[..., 5:6, :, :]), 0, 1)
