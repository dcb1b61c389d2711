# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from utils.image_utils import colour_map, read_png, to_uint8, write_png


def test_to_uint8_clamps_and_rounds() -> None:
    image = torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1)
    assert to_uint8(image).tolist() == [[[0, 128, 255]]]


def test_png_round_trip_keeps_channel_order(tmp_path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (5, 7, 3), np.uint8)
    write_png(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(read_png(tmp_path / "deep" / "a.png"), image)


def test_reading_no_image_says_so(tmp_path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ValueError, match="not an image"):
        read_png(tmp_path / "a.png")


def test_near_is_warmer_than_far() -> None:
    far, near = colour_map(torch.tensor([[[0.15, 0.85]]]))[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]
