# SPDX-License-Identifier: Apache-2.0
import imageio_ffmpeg
import numpy as np
import pytest

from tests.checkout import ROOT, files
from utils.tree_file import load_tree, save_tree
from utils.video import SegmentedVideo, VideoWriter, read_video


def test_frames_come_back_in_order_and_h264(tmp_path) -> None:
    path = tmp_path / "folder" / "video.mp4"
    with VideoWriter(path, fps=30) as video:
        for level in (0, 120, 240):
            video.add(np.full((33, 47, 3), level, np.uint8))
    frames = read_video(path)
    assert frames.shape == (3, 34, 48, 3)  # odd sides are padded to even ones
    assert np.abs(frames.mean(axis=(1, 2, 3)) - [0, 120, 240]).max() < 4
    assert b"avc1" in path.read_bytes()


@pytest.mark.parametrize("kind", [VideoWriter, SegmentedVideo])
@pytest.mark.parametrize("size_px", [64, 720])  # from about 720 px on players take another matrix for one without a name
def test_the_file_says_how_its_colours_are_coded(tmp_path, kind, size_px) -> None:
    """In the stream and in the container, for either of which players ask; in a video of several segments."""
    path, rgb = tmp_path / "v.mp4", (193, 37, 40)
    video = kind(path)
    for _ in range(kind.SEGMENT + 1):
        video.add(np.full((size_px, size_px, 3), rgb, np.uint8))
    video.close()
    assert "(tv, smpte170m/bt709/bt709," in next(imageio_ffmpeg.read_frames(str(path)))["pix_fmt"]
    assert b"colrnclx" + bytes([0, 1, 0, 1, 0, 6]) in path.read_bytes()
    assert np.abs(read_video(path).reshape(-1, 3).astype(int) - rgb).max() <= 3


def test_no_other_file_writes_videos() -> None:
    """Nor names its colours, then."""
    writers = ("imageio_ffmpeg", "cv2.VideoWriter", "mimsave", "mimwrite", "torchvision.io")
    found = {path.relative_to(ROOT).as_posix() for path in files("*.py") if any(name in path.read_text() for name in writers)}
    assert {name for name in found if not name.startswith("tests/")} == {"utils/video.py"}


@pytest.mark.parametrize("content", [b"# words\n", b"", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"])
def test_another_file_is_no_video(tmp_path, content) -> None:
    (tmp_path / "other.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*other\.mp4 is not a video that ffmpeg can read; give an \.mp4 file\.$"):
        read_video(tmp_path / "other.mp4")


def test_another_ffmpeg_is_used_where_the_environment_names_one(tmp_path, monkeypatch) -> None:
    """As docs/licences.md says."""
    other = tmp_path / "ffmpeg"
    other.write_text(f'#!/bin/sh\ntouch "{tmp_path}/used"\nexec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(other))
    with VideoWriter(tmp_path / "v.mp4") as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
    assert (tmp_path / "used").exists() and len(read_video(tmp_path / "v.mp4")) == 1


def test_an_unfinished_file_never_stands_in_for_a_whole_one(tmp_path) -> None:
    path = tmp_path / "v.mp4"
    with VideoWriter(path) as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(RuntimeError), VideoWriter(path) as video:
        video.add(np.zeros((16, 16, 3), np.uint8))
        assert path.read_bytes() == before
        raise RuntimeError
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["v.mp4"]


def test_an_ffmpeg_that_outlives_its_run_makes_no_file(tmp_path, monkeypatch) -> None:
    """A run that is resumed meanwhile has removed what the killed one had begun; the name must not come back."""
    slow, folder = tmp_path / "ffmpeg", tmp_path / "run"
    slow.write_text(f'#!/bin/sh\nrm -f "{folder}"/.*.part\nexec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(slow))
    video = VideoWriter(folder / "v.mp4")
    video.add(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(FileNotFoundError):
        video.close()
    assert not list(folder.iterdir())


def test_no_frames_no_file(tmp_path) -> None:
    with VideoWriter(tmp_path / "none.mp4"):
        pass
    SegmentedVideo(tmp_path / "none.mp4").close()
    assert not list(tmp_path.iterdir())


def _frames(count: int) -> list[np.ndarray]:
    """Moving stripes with odd sides."""
    ramp = np.add.outer(np.arange(33), np.arange(47))
    return [np.repeat(((ramp * 3 + 5 * k) % 256)[..., None], 3, axis=2).astype(np.uint8) for k in range(count)]


@pytest.mark.parametrize("cut", [1, 29, 30, 31, 65])
def test_a_continued_video_is_the_same_file(tmp_path, cut) -> None:
    """Segments are 30 frames long: cuts within one, at its end, and after the last frame."""
    frames, whole, first = _frames(65), SegmentedVideo(tmp_path / "whole.mp4"), SegmentedVideo(tmp_path / "cut.mp4")
    for frame in frames:
        whole.add(frame)
    for frame in frames[:cut]:
        first.add(frame)
    save_tree(tmp_path / "state", first.state_dict())
    first.add(frames[0])  # after the checkpoint, before the crash
    first.close()
    second = SegmentedVideo(tmp_path / "cut.mp4")
    second.load_state_dict(load_tree(tmp_path / "state"))
    for frame in frames[cut:]:
        second.add(frame)
    whole.close(), second.close()
    assert (tmp_path / "cut.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    shown = read_video(tmp_path / "whole.mp4")
    assert len(shown) == 65 == whole.frames == second.frames
    assert max(np.abs(shown[k][:33, :47].astype(int) - frames[k]).mean() for k in range(65)) < 6


def test_a_growing_video_can_be_watched_a_segment_behind(tmp_path) -> None:
    video = SegmentedVideo(tmp_path / "v.mp4")
    for frame in _frames(40):
        video.add(frame)
    assert len(read_video(tmp_path / "v.mp4")) == 30


def test_frames_that_cannot_be_written_are_kept(tmp_path) -> None:
    (tmp_path / "blocked").write_bytes(b"")  # a file where the folder should be
    video = SegmentedVideo(tmp_path / "blocked" / "v.mp4")
    for frame in _frames(29):
        video.add(frame)
    with pytest.raises(OSError):
        video.add(_frames(1)[0])
    (tmp_path / "blocked").unlink()
    video.close()
    assert len(read_video(tmp_path / "blocked" / "v.mp4")) == 30


@pytest.mark.parametrize("cut", [7, 30, 41])
@pytest.mark.parametrize("size", [(64, 64), (20, 61)])
def test_frames_of_another_size_after_a_resume_are_scaled(tmp_path, cut, size) -> None:
    """Within a segment, at its end, and after it."""
    first = SegmentedVideo(tmp_path / "v.mp4")
    for frame in _frames(cut):
        first.add(frame)
    save_tree(tmp_path / "state", first.state_dict())
    second = SegmentedVideo(tmp_path / "v.mp4")
    second.load_state_dict(load_tree(tmp_path / "state"))
    for _ in range(34):
        second.add(np.full((*size, 3), 200, np.uint8))
        second.state_dict()  # a checkpoint at every step
    second.close()
    shown = read_video(tmp_path / "v.mp4")
    assert shown.shape == (cut + 34, 34, 48, 3)
    assert np.abs(shown[-1][17, 24].astype(int) - 200).max() < 4 and shown[-1].any(axis=2).mean() > 0.2


DUMP = "[libx264 @ 0x5581] using cpu capabilities: MMX2\n[out#0/mp4 @ 0x55] Error writing trailer: No space left on device\nConversion failed!"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"cat > /dev/null; echo '{DUMP}' >&2; exit 1", "ffmpeg: Error writing trailer: No space left on device"),
        (f"echo '{DUMP}' >&2; exit 1", "ffmpeg: Error writing trailer: No space left on device"),
        ("echo 'Unknown encoder libx264' >&2; echo 'Conversion failed!' >&2; exit 1", "ffmpeg: Unknown encoder libx264"),
        ("exit 3", "ffmpeg: exit status 3"),
        ("kill -9 $$", "ffmpeg was ended by SIGKILL"),
    ],
)
def test_a_failure_of_ffmpeg_is_one_line(tmp_path, monkeypatch, capfd, script, told) -> None:
    """However much it prints, and whenever it ends."""
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    frame = np.zeros((512, 512, 3), np.uint8)  # more than a pipe holds
    with pytest.raises(OSError) as caught, VideoWriter(tmp_path / "video.mp4") as video:
        for _ in range(3):
            video.add(frame)
    assert str(caught.value) == told and capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]
