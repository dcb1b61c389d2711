# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from scene.ply_file import compress
from tests.red_ball import write_run
from tools.contact_sheet import main
from utils.image_utils import read_png
from utils.video import VideoWriter


def test_frames_stand_side_by_side(tmp_path) -> None:
    for name in ("a", "b"):
        with VideoWriter(tmp_path / f"{name}.mp4") as video:
            for level in (0, 80, 160, 240):
                video.add(np.full((16, 16, 3), level, np.uint8))
    assert (
        main(
            [
                str(tmp_path / "a.mp4"),
                str(tmp_path / "b.mp4"),
                "--frames",
                "2",
                "--side_px",
                "16",
                "--out",
                str(tmp_path / "s.png"),
            ]
        )
        == 0
    )
    sheet = read_png(tmp_path / "s.png").astype(int)
    assert sheet.shape == (32, 32, 3)
    assert abs(sheet[:, :16].mean() - 0) < 4 and abs(sheet[:, 16:].mean() - 160) < 4


def test_a_missing_video_is_named(tmp_path, capsys) -> None:
    assert main([str(tmp_path / "gone.mp4"), "--out", "x.png"]) == 2
    assert "gone.mp4 does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["ball/config.yaml/s.png", "folder.png", "full.png"])
def test_a_sheet_that_cannot_be_written_is_named_and_an_earlier_one_stays(tmp_path, capsys, monkeypatch, out) -> None:
    run = write_run(tmp_path / "ball", (5,))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "full.png").write_bytes(b"earlier")
    if out == "full.png":
        monkeypatch.setattr(Path, "write_bytes", _fill_the_disk)
    assert main([str(run), "--frames", "1", "--side_px", "16", "--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("contact_sheet: ") and str((tmp_path / out).parent) in line
    assert (tmp_path / "full.png").read_bytes() == b"earlier" and not list(tmp_path.glob(".*.part"))


def _fill_the_disk(path: Path, content: bytes) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_cloud_is_drawn_from_all_around(tmp_path, capsys) -> None:
    run = write_run(tmp_path / "ball")
    cloud = compress(run / "point_cloud" / "iteration_5" / "point_cloud.ply")
    assert main([str(run), str(cloud), "--frames", "3", "--side_px", "32", "--out", str(tmp_path / "s.png")]) == 0
    sheet = read_png(tmp_path / "s.png").reshape(2, 32, 3, 32, 3)
    assert np.array_equal(sheet[0], sheet[1])
    middle, corner = sheet[0, 16, :, 16].astype(int), sheet[0, 0, :, 0]
    assert (middle[:, 0] > middle[:, 2] + 80).all() and (corner == 255).all()
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--out", "x.png"]) == 2
    assert "holds no point_cloud" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--side_px 0", "--side_px 1000000", "--frames 0", "--frames 1000000", "--seeds -1"])
def test_a_sheet_of_no_size_or_too_large_is_refused(tmp_path, capsys, words) -> None:
    assert main([str(write_run(tmp_path / "ball", (5,))), *words.split(), "--out", str(tmp_path / "s.png")]) == 2
    assert f"contact_sheet: {words}: expected a number" in capsys.readouterr().err and not (tmp_path / "s.png").exists()
