# SPDX-License-Identifier: Apache-2.0
import numpy as np

from utils.video import VideoWriter, read_video


def test_frames_come_back_in_order_and_h264(tmp_path) -> None:
    path = tmp_path / "folder" / "video.mp4"
    with VideoWriter(path, fps=30) as video:
        for level in (0, 120, 240):
            video.add(np.full((33, 47, 3), level, np.uint8))
    frames = read_video(path)
    assert frames.shape == (3, 34, 48, 3)  # odd sides are padded to even ones
    assert np.abs(frames.mean(axis=(1, 2, 3)) - [0, 120, 240]).max() < 4
    assert b"avc1" in path.read_bytes()


def test_video_cut_before_close_is_readable(tmp_path) -> None:
    path = tmp_path / "cut.mp4"
    video = VideoWriter(path)
    for _ in range(600):
        video.add(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    video.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert 0 < len(read_video(path)) < 600


def test_closing_without_frames_writes_nothing(tmp_path) -> None:
    video = VideoWriter(tmp_path / "none.mp4")
    video.close()
    video.close()
    assert not (tmp_path / "none.mp4").exists()
