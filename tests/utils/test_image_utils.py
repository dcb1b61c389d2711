# SPDX-License-Identifier: Apache-2.0
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.image_utils import colour_map, read_png, to_uint8, write_png

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("apps", "evaluation", "export", "gaussian_renderer", "guidance", "scene", "tools", "toy", "trainer", "utils")


def test_to_uint8_clamps_and_rounds() -> None:
    image = torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1)
    assert to_uint8(image).tolist() == [[[0, 128, 255]]]


def test_png_round_trip_keeps_channel_order(tmp_path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (5, 7, 3), np.uint8)
    write_png(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(read_png(tmp_path / "deep" / "a.png"), image)


@pytest.mark.parametrize("name", ["höhe.png", os.fsdecode(b"h\xf6he.png")])
def test_a_file_of_any_name_is_written_and_read(tmp_path, name) -> None:
    image = np.full((5, 7, 3), (250, 100, 3), np.uint8)
    try:
        write_png(tmp_path / name, image)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert np.array_equal(read_png(tmp_path / name), image)


def test_no_path_is_given_to_opencv() -> None:
    """It ends the program where a path is not UTF-8."""
    files = [*ROOT.glob("*.py"), *(file for folder in PROGRAM for file in (ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    assert not [file for file in files if re.search(r"cv2\.(imread|imwrite|Video\w+)\(", file.read_text("utf-8"))]


@pytest.mark.parametrize("content", [b"not a picture", b""])
def test_reading_no_image_says_so(tmp_path, content) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="not an image"):
        read_png(tmp_path / "a.png")


def test_near_is_warmer_than_far() -> None:
    far, near = colour_map(torch.tensor([[[0.15, 0.85]]]))[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]
