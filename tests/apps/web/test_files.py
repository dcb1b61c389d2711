# SPDX-License-Identifier: Apache-2.0
"""Names of folders, what a run folder may show, and how far its log says it is."""

import json
import os
import re
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from apps.web import job as jobs
from apps.web import outputs
from apps.web.job import slug
from apps.web.progress import CURVE_POINTS, LogReader, clock, curve
from apps.web.server_state import ServerState
from apps.web.sizes import Sizes, size_in_words
from tests.apps.web.shown_run import write_run


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a yellow Mug!", "a-yellow-mug"),
        ("../../etc/passwd", "etc-passwd"),
        ("/", "run"),
        ("..", "run"),
        ("Ünï çôdé 猫", "uni-code"),
        ("a" * 500, "a" * 40),
        ("x\0y\n--z", "x-y-z"),
        ("<script>", "script"),
    ],
)
def test_folders_are_named_safely_after_the_prompt(tmp_path, prompt, name) -> None:
    assert slug(prompt) == name
    folders = [jobs.new_folder(tmp_path / "out", prompt) for _ in range(3)]
    assert [folder.name for folder in folders] == [name, f"{name}-2", f"{name}-3"]
    assert all(folder.parent == tmp_path / "out" for folder in folders)


@pytest.mark.parametrize(
    "name", ["../mug", "..", ".", "", "mug/..", "/mug", "absent", "link", "a\0b", "mug/config.yaml", "deep/run", ".hidden", "a\nb", "\udc80", "n" * 256]
)
def test_only_runs_directly_below_the_output_are_found(tmp_path, name) -> None:
    write_run(tmp_path, "outside")
    write_run(tmp_path / "out")
    write_run(tmp_path / "out" / "deep", "run")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "outside")
    server = ServerState(tmp_path / "out")
    assert server.find("mug").prompt == "a red mug" and [job.name for job in server.jobs()] == ["mug"]
    assert server.find(name) is None


def test_what_is_written_again_has_another_address(tmp_path) -> None:
    """A run that is deleted and started again has the same name, and its files the same numbers."""
    pairs = ((outputs.FRONT_VIEW, "thumb.png"), (outputs.PANEL, "preview.png"), (outputs.TURNTABLE, "turntable.mp4"))
    job = jobs.Job(write_run(tmp_path))
    for pattern, address in (*pairs, (outputs.SCENE, "view"), (outputs.REGION_MAP, "regions.png")):
        path = job.folder / pattern.replace("K", "7")
        path.parent.mkdir(parents=True, exist_ok=True)
        found = []
        for written_s in (1000, 1000, 1001):
            path.write_bytes(b"x")
            os.utime(path, (written_s, written_s))
            found.append(job.address(address, outputs.newest(job.folder, pattern)))
        assert found[0] == found[1] != found[2] and found[0].startswith(f"/runs/mug/{address}?v=7-")


@pytest.mark.parametrize("name", ["blue cup", "größe 5", "_x", "-x", 'say "hi"', "100%2F?a#b", "n" * 255])
def test_a_run_of_the_command_line_may_have_any_name(tmp_path, name) -> None:
    write_run(tmp_path, name)
    server = ServerState(tmp_path)
    assert [job.name for job in server.jobs()] == [name] and server.find(name) is server.current
    address = server.current.address("thumb.png")
    assert unquote(address) == f"/runs/{name}/thumb.png" and re.fullmatch(r"[\w./%~-]+", address, re.ASCII)


def test_the_newest_of_each_output_is_found_by_number(tmp_path) -> None:
    for name in ("train_process/iter_9.png", "train_process/iter_10.png", "train_process/iter_x.png", "videos/5_iteration/video_rgb_5.mp4", "cograd/regions_3.png", "point_cloud/iteration_7/point_cloud.ply"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train_process" / "iter_99.png").symlink_to("/etc/hostname")
    patterns = (outputs.PANEL, outputs.TURNTABLE, outputs.REGION_MAP, outputs.SCENE)
    assert [outputs.newest(tmp_path, pattern).step for pattern in patterns] == [10, 5, 3, 7]
    assert outputs.newest(tmp_path / "nowhere", outputs.PANEL) is None and outputs.preview_png(tmp_path) is None


@pytest.mark.parametrize(("views", "height", "width"), [(4, 16, 16), (1, 32, 16), (2, 16, 24)])
def test_the_preview_holds_two_columns_of_the_panel(tmp_path, views, height, width) -> None:
    folder = write_run(tmp_path)
    (folder / "config.yaml").write_text(f"GenerateCamParams: {{image_w: {width}, image_h: {height}}}\n")
    panel = np.full((views * (height + 2) + 2, 8 * (width + 2) + 2, 3), 255, np.uint8)
    for view in range(views):
        for column in range(8):
            top, left = 2 + view * (height + 2), 2 + column * (width + 2)
            panel[top : top + height, left : left + width] = 10 * view + column
    (folder / "train_process").mkdir()
    cv2.imwrite(str(folder / "train_process" / "iter_1.png"), panel)
    picture = cv2.imdecode(np.frombuffer(outputs.preview_png(folder), np.uint8), cv2.IMREAD_COLOR)
    expected = np.block([[np.full((height, width), 10 * view + column) for view in range(views)] for column in (0, 6)])
    assert np.array_equal(picture, np.repeat(expected[..., None], 3, 2))


def test_a_thumbnail_is_the_front_view_or_the_first_rendered_one(tmp_path) -> None:
    assert outputs.thumbnail_png(tmp_path) is None
    panel = np.zeros((4 * 18 + 2, 8 * 18 + 2, 3), np.uint8)
    panel[2:18, 2:18] = 90  # of four views the first, of its columns the rendered one
    (tmp_path / "train_process").mkdir()
    cv2.imwrite(str(tmp_path / "train_process" / "iter_1.png"), panel)
    shown = cv2.imdecode(np.frombuffer(outputs.thumbnail_png(tmp_path), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (outputs.THUMBNAIL_PX, outputs.THUMBNAIL_PX, 3) and (shown == 90).all()
    front = tmp_path / "test_six_views" / "7_iteration" / "render_view_0.png"
    front.parent.mkdir(parents=True)
    cv2.imwrite(str(front), np.full((20, 30, 3), 40, np.uint8))
    shown = cv2.imdecode(np.frombuffer(outputs.thumbnail_png(tmp_path), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (outputs.THUMBNAIL_PX, outputs.THUMBNAIL_PX, 3) and (shown == 40).all()


def test_sizes_are_measured_on_request_and_again_after_a_change(tmp_path) -> None:
    sizes, folder = Sizes(), write_run(tmp_path)
    assert sizes.of(folder) is None
    sizes.measure()
    first = sizes.of(folder)
    assert first == sum(path.stat().st_size for path in folder.iterdir())
    (folder / "log.jsonl").write_text("12345")
    assert sizes.of(folder) == first
    sizes.measure()
    assert sizes.of(folder) == first + 5


@pytest.mark.parametrize(("size", "words"), [(1, "1 kB"), (12_340_000, "12.3 MB"), (1_200_000_000, "1.2 GB")])
def test_sizes_in_words(size, words) -> None:
    assert size_in_words(size) == words


def _line(step: int, loss: float | None, seconds: float = 1.0) -> str:
    return (
        json.dumps({"iteration": step, "loss": loss, "points": 5, "phase_ms": {"a": 400 * seconds, "b": 600 * seconds}})
        + "\n"
    )


def test_progress_follows_the_log(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    reader = LogReader(path, 10)
    assert (reader.read().step, reader.read().seconds_left) == (0, None)
    path.write_text(_line(1, 4.0) + _line(2, None) + _line(3, 2.0, 4.0)[:20])
    assert (reader.read().step, reader.read().loss, reader.read().seconds_left) == (2, 4.0, 8.0)
    path.write_text(_line(1, 4.0) + _line(2, None) + _line(3, 2.0, 4.0))
    assert (reader.read().step, reader.read().loss, reader.read().seconds_left) == (3, 3.0, 14.0)
    path.write_text(_line(1, 6.0) + "no json\n[1]\n")  # went back to a checkpoint
    assert (reader.read().step, reader.losses) == (1, {1: 6.0})


def test_steps_done_again_replace_those_before(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(_line(step, 1.0) for step in (1, 2, 3)) + _line(2, 5.0))
    reader = LogReader(path, 10)
    assert (reader.read().step, reader.losses) == (2, {1: 1.0, 2: 5.0})


def test_the_curve_has_means_of_equal_stretches() -> None:
    assert curve({}) == [] and curve({1: 2.0, 2: 4.0}) == [(1, 2.0), (2, 4.0)]
    points = curve({step: float(step) for step in range(1, 1001)})
    assert len(points) <= CURVE_POINTS and points[0] == (9, 5.0) and points[-1][0] == 1000


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "7 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_time_in_words(seconds, words) -> None:
    assert clock(seconds) == words


def test_a_lock_of_the_same_inode_on_another_file_system_is_none_of_the_runs(tmp_path) -> None:
    lock = tmp_path / "run.lock"
    lock.touch()
    found = lock.stat()
    major, minor, inode = os.major(found.st_dev), os.minor(found.st_dev), found.st_ino
    own, other = f"{major:02x}:{minor:02x}", f"{major:02x}:{minor + 1:02x}"
    (tmp_path / "self").mkdir()

    def is_locked(held: str, mount: str = f"{major}:{minor}", kind: str = "FLOCK ") -> bool:
        (tmp_path / "locks").write_text(f"1: POSIX  ADVISORY  READ 5 fe:00:7 128 128\n2: {kind} ADVISORY  WRITE 9 {held} 0 EOF\n")
        (tmp_path / "self" / "mountinfo").write_text(f"22 27 0:999 / /proc rw - proc proc rw\n27 1 {mount} / / rw - ext4 d rw\n")
        return jobs._is_locked(lock, tmp_path)

    assert is_locked(f"{own}:{inode}") and not is_locked(f"{other}:{inode}")
    assert not is_locked(f"{own}:{inode + 1}") and not is_locked(f"{own}:{inode}", kind="POSIX ")
    assert is_locked(f"{other}:{inode}", mount="0:998")  # btrfs: the file's device is none of a mount
    assert not is_locked(f"{other}:{inode}1", mount="0:998")
