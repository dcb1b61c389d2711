# SPDX-License-Identifier: Apache-2.0
"""tools/turntable.py and tools/side_by_side.py: what is in the frames, and a sentence for what a user can get wrong."""

import os

import imageio_ffmpeg
import numpy as np
import pytest

from scene.gaussian_model import GaussianModel
from tests.red_ball import red_ball, write_run
from tools import side_by_side, turntable
from utils.video import read_video

QUICK = ["--size_px", "64", "--frames", "6"]


def half_moved(by: float) -> GaussianModel:
    """The red ball moved along x, and its half towards +y, which is seen first, in blue."""
    ball = red_ball()
    front = ball.get_xyz[:, 1] > 0
    ball.parameters_in_order()["f_dc"].data[front] = -ball.parameters_in_order()["f_dc"].data[front]
    ball.parameters_in_order()["f_dc"].data[front, :, 2] = 1.5
    ball.get_xyz.data[:, 0] += by
    return ball


def ball_of(image: np.ndarray) -> np.ndarray:
    """Where an image is not its upper left corner's colour."""
    return np.abs(image.astype(int) - image[0, 0]).max(axis=2) > 60


def test_a_full_turn_around_a_cloud_that_is_not_at_the_origin(tmp_path, capsys) -> None:
    half_moved(7.0).save_ply(tmp_path / "moved.ply")
    assert turntable.main([str(tmp_path / "moved.ply"), *QUICK, "--fps", "12"]) == 0
    path = tmp_path / "export" / "moved.mp4"
    assert capsys.readouterr().out.strip() == str(path)
    facts = next(imageio_ffmpeg.read_frames(str(path)))
    assert (facts["size"], facts["fps"], facts["codec"].split()[0]) == ((64, 64), 12.0, "h264")
    frames = read_video(path)
    assert frames.shape == (6, 64, 64, 3)
    for frame in frames:
        ys, xs = np.nonzero(ball_of(frame))
        assert abs(ys.mean() - 31.5) < 2 and abs(xs.mean() - 31.5) < 2  # in the middle of every frame
        assert 40 < np.ptp(xs) < 63 and ys.min() > 0  # large, and whole
    middle = frames[:, 28:36, 28:36].mean(axis=(1, 2))
    assert middle[0, 2] > middle[0, 0] + 60 and middle[3, 0] > middle[3, 2] + 60  # blue first, red after half a turn


def test_radius_field_of_view_background_and_elevation_are_followed(tmp_path) -> None:
    run = write_run(tmp_path / "ball")
    sizes = []
    for k, flags in enumerate((["--radius", "3"], ["--radius", "6"], ["--radius", "6", "--fov_deg", "16"])):
        out = tmp_path / f"{k}.mp4"
        assert (
            turntable.main([str(run), *QUICK, "--frames", "1", "--background", "#204060", "--out", str(out), *flags])
            == 0
        )
        frame = read_video(out)[0]
        assert np.abs(frame[0, 0].astype(int) - [0x20, 0x40, 0x60]).max() < 6
        sizes.append(np.ptp(np.nonzero(ball_of(frame))[1]))
    assert sizes[0] > 1.7 * sizes[1] and sizes[2] > 1.9 * sizes[1]
    half_moved(0.0).save_ply(tmp_path / "half.ply")
    tops = []
    for elevation in ("-80", "80"):
        assert (
            turntable.main(
                [
                    str(tmp_path / "half.ply"),
                    *QUICK,
                    "--frames",
                    "1",
                    "--elevation_deg",
                    elevation,
                    "--out",
                    str(tmp_path / "e.mp4"),
                ]
            )
            == 0
        )
        frame = read_video(tmp_path / "e.mp4")[0].astype(int)
        tops.append(
            int((frame[:32, :, 2] > frame[:32, :, 0] + 60).sum())
            - int((frame[32:, :, 2] > frame[32:, :, 0] + 60).sum())
        )
    assert tops[0] > 100 and tops[1] < -100  # from below the front is at the top, from above at the bottom


def test_several_scenes_share_cameras_and_have_their_names_above(tmp_path, capsys) -> None:
    red_ball().save_ply(tmp_path / "left.ply")
    half_moved(0.0).save_ply(tmp_path / "right.ply")
    small = red_ball()
    small.get_xyz.data *= 0.5
    small.save_ply(write_run(tmp_path / "run") / "point_cloud" / "iteration_10" / "point_cloud.ply")
    out = tmp_path / "new" / "all.mp4"
    assert (
        side_by_side.main(
            [
                str(tmp_path / "left.ply"),
                str(tmp_path / "right.ply"),
                str(tmp_path / "run"),
                *QUICK,
                "--elevation_deg",
                "0",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == str(out)
    frames = read_video(out)
    assert frames.shape == (6, 64 + 22, 3 * 64, 3)
    left, right, third = (frames[:, 22:, 64 * k : 64 * (k + 1)] for k in range(3))
    widths = [np.ptp(np.nonzero(ball_of(part[0]))[1]) for part in (left, right, third)]
    assert abs(widths[0] - widths[1]) <= 1 and widths[2] < 0.65 * widths[0]  # one distance for all
    front, behind = (np.abs(left[k].astype(int) - right[k]).mean() for k in (0, 3))
    assert front > 5 * behind  # at the same time both show the same side
    words = frames[0, :22].min(axis=(0, 2)).reshape(3, 64) < 128
    assert words.any(axis=1).all()


def test_labels_are_of_any_script_and_any_bytes(tmp_path) -> None:
    run, out = write_run(tmp_path / "ball"), tmp_path / "out.mp4"
    words = [str(run), str(run), *QUICK, "--frames", "1", "--out", str(out), "--labels", "Höhe", os.fsdecode(b"h\xf6he")]
    assert side_by_side.main(words) == 0  # it was a segmentation fault
    assert (read_video(out)[0][:22].min(axis=(0, 2)).reshape(2, 64) < 128).any(axis=1).all()


@pytest.mark.parametrize(
    "program, words, told",
    [
        (turntable, ["gone"], "gone does not exist; give a run folder or a .ply file"),
        (turntable, ["ball", "--frames", "0"], "--frames 0: expected a number from 1 to 100000"),
        (turntable, ["ball", "--fov_deg", "180"], "--fov_deg 180.0: expected a number from 1.0 to 150.0"),
        (turntable, ["ball", "--background", "pale"], "background 'pale': expected white, black, grey or #rrggbb"),
        (turntable, ["ball", "--iteration", "6"], "holds no cloud of iteration 6; it holds those of 5, 10"),
        (turntable, ["ball", "ball", "--out", "a.mp4"], "names one video and 2 scenes were given"),
        (turntable, ["a.ply", "ball", "a.ply.xz"], "of a.ply and a.ply.xz would both be export/a.mp4; give one scene"),
        (turntable, ["a.compressed.ply", "a.ply"], "would both be export/a.mp4; give one scene, and --out for the other"),
        (side_by_side, ["ball", "ball", "--out", "a.mp4", "--labels", "one"], "given 1 label for 2 scenes"),
        (side_by_side, ["ball", "empty", "--out", "a.mp4"], "holds no point_cloud/iteration_K/point_cloud.ply"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, monkeypatch, capsys, program, words, told) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "ball")
    (tmp_path / "empty").mkdir()
    for name in ("a.ply", "a.compressed.ply", "a.ply.xz"):
        (tmp_path / name).write_bytes(b"")
    assert program.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and not (tmp_path / "a.mp4").exists()
