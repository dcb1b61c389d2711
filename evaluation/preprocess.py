# SPDX-License-Identifier: Apache-2.0
"""Images as the metrics' networks want them: Pillow's bicubic resize, centre crop, CLIP's mean and deviation.

transformers 5 does this with torchvision, which this project keeps out. V images, uint8 [V, H, W, 3] RGB.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BATCH = 24  # images that go through a network at a time


def network_input(images: np.ndarray, side_px: int, pad: bool = False) -> Tensor:
    """float32 [V, 3, side_px, side_px]: the short side resized to side_px, the middle cut out, normalised.

    With `pad` an image is first made square by borders of CLIP's mean colour, so that nothing is cut off.
    """
    prepared = [_prepared(Image.fromarray(image), side_px, pad) for image in images]
    x = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """At most BATCH images at a time."""
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def _prepared(image: Image.Image, side_px: int, pad: bool) -> np.ndarray:
    if pad:
        image = _padded(image)
    width, height = image.size
    short = min(width, height)
    size = (width * side_px // short, height * side_px // short)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side_px) / 2), round((size[1] - side_px) / 2)
    return np.asarray(resized.crop((left, top, left + side_px, top + side_px)))


def _padded(image: Image.Image) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in CLIP_MEAN))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
