# SPDX-License-Identifier: Apache-2.0
"""tools/show_cameras.py: the whole initial ball is in the images of prompt.yaml, larger at the narrow field of view."""

from pathlib import Path

import numpy as np

from tools import show_cameras
from utils.image_utils import read_png

PROMPT = str(Path(__file__).resolve().parents[2] / "configs" / "prompt.yaml")
SMALL = ["--image_w", "32", "--image_h", "32", "--init_num_pts", "300", "--columns", "6"]


def _darkness(path: Path) -> np.ndarray:
    """[2, 6, 32, 32]: 0 where the background is seen, up to 1."""
    image = 1 - read_png(path)[..., 0] / 255.0
    assert image.shape == (2 * 34, 6 * 34)
    return image.reshape(2, 34, 6, 34).transpose(0, 2, 1, 3)[:, :, 1:-1, 1:-1]


def test_the_ball_is_in_every_picture_and_whole(tmp_path) -> None:
    assert show_cameras.main(["--out", str(tmp_path / "a.png"), "--opt", PROMPT, *SMALL]) == 0
    dark = _darkness(tmp_path / "a.png")
    assert (dark.max(axis=(2, 3)) > 0.3).all()
    border = np.concatenate([dark[:, :, 0], dark[:, :, -1], dark[..., 0], dark[..., -1]], axis=-1)
    assert border.max() < 0.2  # the soft rim of 300 wide Gaussians at most
    area = (dark > 0.25).mean(axis=(1, 2, 3))
    assert area[0] > 1.3 * area[1]


def test_without_cograd_the_cameras_are_the_ranges(tmp_path, capsys) -> None:
    words = ["--out", str(tmp_path / "b.png"), "--opt", PROMPT, *SMALL, "--CoGradParams.enabled", "false"]
    assert show_cameras.main(words) == 0
    assert (_darkness(tmp_path / "b.png").max(axis=(2, 3)) > 0.3).all()
    assert show_cameras.main(["--out", str(tmp_path / "c.png"), "--opt", PROMPT, *SMALL, "--columns", "0"]) == 2
    assert show_cameras.main(["--out", str(tmp_path / "c.png"), "--opt", "gone.yaml"]) == 2
    assert "gone.yaml" in capsys.readouterr().err
