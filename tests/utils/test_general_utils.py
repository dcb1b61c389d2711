# SPDX-License-Identifier: Apache-2.0
"""Logit, rotations, covariances, schedules, atomic files, fields of view."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.general_utils import (
    atomic_path,
    build_covariance,
    build_rotation,
    check_writable,
    finite_rows,
    get_expon_lr_func,
    inverse_sigmoid,
    remove_parts,
)
from utils.graphics_utils import focal2fov, fov2focal, getProjectionMatrix, getWorld2View2

rates = st.floats(1e-8, 1.0)


@given(rates, rates, st.integers(1, 10_000))
def test_schedule_ends_and_is_log_linear(first, last, steps) -> None:
    rate = get_expon_lr_func(first, last, steps)
    assert rate(0) == pytest.approx(first) and rate(steps) == pytest.approx(last) and rate(steps + 5) == pytest.approx(last)
    assert rate(-1) == 0
    values = [rate(k) for k in range(0, steps + 1, max(steps // 10, 1))]
    assert values == pytest.approx(sorted(values, reverse=first > last))
    assert get_expon_lr_func(first, last, 2)(1) == pytest.approx(math.sqrt(first * last))


def test_a_zero_rate_stays_zero() -> None:
    assert get_expon_lr_func(0.0, 0.0, 100)(50) == 0


def test_a_schedule_that_starts_or_ends_at_zero() -> None:
    """Rates may be zero in the settings; a logarithm of zero may not stop the run."""
    assert [get_expon_lr_func(0.1, 0.0, 100)(k) for k in (0, 1, 100)] == [0.1, 0, 0]
    assert [get_expon_lr_func(0.0, 0.1, 100)(k) for k in (0, 1, 100)] == [0, 0, 0.1]


@given(st.floats(0.001, 0.999))
def test_inverse_sigmoid(x) -> None:
    assert float(torch.sigmoid(inverse_sigmoid(torch.tensor(x)))) == pytest.approx(x, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.01))
def test_rotations_are_orthogonal_and_ignore_length(q) -> None:
    quaternion = torch.tensor([q], dtype=torch.float64)
    R = build_rotation(quaternion)
    np.testing.assert_allclose((R @ R.transpose(1, 2))[0], np.eye(3), atol=1e-12)
    assert float(torch.linalg.det(R)) == pytest.approx(1)
    np.testing.assert_allclose(build_rotation(3 * quaternion), R, atol=1e-12)
    isotropic = build_covariance(torch.full((1, 3), 2.0, dtype=torch.float64), quaternion)
    np.testing.assert_allclose(isotropic, [[4, 0, 0, 4, 0, 4]], atol=1e-12)


def test_a_rotation_about_z() -> None:
    R = build_rotation(torch.tensor([[math.cos(math.pi / 8), 0, 0, math.sin(math.pi / 8)]]))[0]
    np.testing.assert_allclose(R @ torch.tensor([1.0, 0, 0]), [math.sqrt(0.5), math.sqrt(0.5), 0], atol=1e-6)


@given(st.floats(0.01, 3.0), st.integers(1, 4096))
def test_fov_and_focal_are_inverse(fov, pixels) -> None:
    assert focal2fov(fov2focal(fov, pixels), pixels) == pytest.approx(fov)


def test_projection_maps_the_frustum_to_the_unit_cube() -> None:
    P = getProjectionMatrix(0.01, 100.0, 0.8, 0.6)
    for depth, wanted in ((0.01, 0.0), (100.0, 1.0)):
        corner = torch.tensor([depth * math.tan(0.4), depth * math.tan(0.3), depth, 1.0])
        clip = P @ corner
        assert (clip[:3] / clip[3]).tolist() == pytest.approx([1, 1, wanted], abs=1e-4)


def test_world_to_view_of_a_moved_camera() -> None:
    matrix = getWorld2View2(np.eye(3), np.array([1.0, 2.0, 3.0]))
    assert matrix.dtype == np.float32 and (matrix @ [0, 0, 0, 1]).tolist() == [1, 2, 3, 1]


def test_an_interrupted_write_leaves_the_old_file(tmp_path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(tmp_path / "f") as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert (tmp_path / "f").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("named", "told"), [(None, "f"), ("other", "other")])
def test_a_write_that_fails_says_of_which_file(tmp_path, named, told) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(tmp_path / "f"):
        raise OSError(28, "No space left on device", *([] if named is None else [str(tmp_path / named)]))
    assert str(caught.value).endswith(f": '{tmp_path / told}'")


def test_what_a_killed_process_has_left_of_a_file_can_be_removed(tmp_path) -> None:
    """And nothing else: neither what is being written, nor another file's part."""
    kept = [tmp_path / name for name in ("f", ".f2.abcdefgh.part", ".f.part", "f.abcdefgh.part", ".fx.abcdefgh.part")]
    for path in [*kept, tmp_path / ".f.abcd_123.part"]:
        path.write_text("half")
    with atomic_path(tmp_path / "f") as temporary:
        remove_parts(tmp_path / "f")
        assert sorted(tmp_path.iterdir()) == sorted([*kept, temporary])
        temporary.write_text("whole")
    remove_parts(tmp_path / "absent" / "f")


def test_a_finished_write_replaces_and_may_be_read_by_others(tmp_path) -> None:
    with atomic_path(tmp_path / "new" / "f") as temporary:
        temporary.write_text("whole")
    other = tmp_path / "plain"
    other.write_text("")
    assert (tmp_path / "new" / "f").read_text() == "whole"
    assert (tmp_path / "new" / "f").stat().st_mode == other.stat().st_mode


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done, (fsync, replace) = [], (os.fsync, os.replace)
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(Path(os.readlink(f"/proc/self/fd/{file}")).name), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    with atomic_path(tmp_path / "f") as temporary:
        temporary.write_text("x")
    assert done == [temporary.name, "renamed", tmp_path.name] and (tmp_path / "f").read_text() == "x"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_with_one_number_that_is_not_finite_is_found(bad) -> None:
    x = torch.full((3, 2, 50), 3e38)  # their sum is infinite
    x[1, 1, 37] = bad
    assert finite_rows(x).tolist() == [True, False, True]


def test_a_file_whose_folder_was_exchanged_meanwhile_is_not_put_into_the_new_one(tmp_path) -> None:
    """The writer opens the temporary file by its name, as libraries do, and so makes one in the folder that is there."""
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(OSError, match=r"run was moved while scene.ply was written"), atomic_path(folder / "scene.ply") as path:
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        path.write_text("ours")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "a" + "€" * 84, "a" * 241, "a" * 240])
def test_any_name_that_the_file_system_takes_can_be_written_whole(tmp_path, name) -> None:
    """The temporary file's name would be longer than the file's own; what a killed process leaves of it is removed too."""
    (tmp_path / "other").write_text("kept")
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("whole")
        left = temporary.with_name(temporary.name[:-13] + "abcdefgh.part")
        left.write_text("half")
        assert name.startswith(temporary.name[1:-14])
        remove_parts(tmp_path / name)
        assert temporary.exists() and not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / name, tmp_path / "other"])
    assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize("place", ["a" * 256, "file/below", "file/below/it", "folder", "/proc/f", "new/" + "a" * 256, "a" * 256 + "/f"])
def test_what_cannot_be_written_is_known_before_the_work(tmp_path, place) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        check_writable(tmp_path / place)
    assert caught.value.filename == str(tmp_path / place) and not caught.value.filename2
    if place == "a" * 256:
        with pytest.raises(OSError, match="File name too long"), atomic_path(tmp_path / place):
            raise AssertionError("the work has begun")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("place", ["f", "new/folder/f", "link"])
def test_what_can_be_written_is_left_as_it_is(tmp_path, place) -> None:
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "f").write_text("old")
    check_writable(tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["f", "link"] and (tmp_path / "f").read_text() == "old"
