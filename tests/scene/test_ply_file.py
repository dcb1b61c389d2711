# SPDX-License-Identifier: Apache-2.0
"""Compressed PLY files: read as plain ones, opened by xz itself, whole after any stop, and refused where damaged."""

import lzma
import os
import shutil
import signal
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from evaluation.run_folder import last_point_cloud
from scene import ply_file
from scene.dataset_readers import read_point_cloud
from scene.gaussian_model import GaussianModel
from scene.ply import PlyError, read_vertices, vertex_count
from scene.ply_file import compress
from tests.red_ball import write_run


@pytest.fixture
def cloud(tmp_path) -> Path:
    return write_run(tmp_path / "run", (5,)) / "point_cloud" / "iteration_5" / "point_cloud.ply"


def message(path: Path) -> str:
    with pytest.raises(PlyError) as caught:
        GaussianModel.from_ply(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_compressed_cloud_is_the_cloud(cloud) -> None:
    plain, vertices, gaussians = cloud.read_bytes(), read_vertices(cloud), GaussianModel.from_ply(cloud)
    packed = compress(cloud)
    assert not cloud.exists() and packed.name == "point_cloud.ply.xz" and packed.stat().st_size < len(plain)
    assert np.array_equal(read_vertices(packed), vertices) and vertex_count(packed) == len(vertices)
    for name, values in GaussianModel.from_ply(packed).parameters_in_order().items():
        assert np.array_equal(values.detach(), gaussians.parameters_in_order()[name].detach()), name
    assert lzma.decompress(packed.read_bytes()) == plain
    if shutil.which("xz"):
        assert subprocess.run(["xz", "-dc", packed], capture_output=True, check=True).stdout == plain


def test_text_and_initial_points_are_read_compressed_too(tmp_path) -> None:
    text = b"ply\nformat ascii 1.0\nelement vertex 2\n" + b"".join(b"property float %c\n" % axis for axis in b"xyz")
    path = tmp_path / "points.PLY.XZ"
    path.write_bytes(lzma.compress(text + b"end_header\n0 1 2\n3 4 5\n"))
    assert read_point_cloud(path).points.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_cut_or_changed_file_is_refused(cloud) -> None:
    packed = compress(cloud)
    whole = packed.read_bytes()
    for cut in (*range(0, len(whole), len(whole) // 50), len(whole) - 1):
        packed.write_bytes(whole[:cut])
        assert f"{packed} is truncated" in message(packed) and "copy it again, or make its run again" in message(packed)
    for place in (*range(0, len(whole), len(whole) // 50), len(whole) - 1):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        assert "copy it again, or make its run again" in message(packed)


def asking_for_much_memory(packed: bytes) -> bytes:
    """The same data with a dictionary of 4 GiB in the block's header, and its checksum."""
    size = 4 * (packed[12] + 1)
    header = packed[12 : 12 + size - 4].replace(b"\x21\x01\x16", b"\x21\x01\x28")
    return packed[:12] + header + zlib.crc32(header).to_bytes(4, "little") + packed[12 + size :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda packed: lzma.decompress(packed), "cannot be decompressed by xz (Input format not supported by decoder)"),
        (lambda packed: packed + packed, "has more bytes after its end"),
        (lambda packed: lzma.compress(bytes(50_000_000)), "holds more than 100 times its size"),
        (asking_for_much_memory, "cannot be decompressed by xz (Memory usage limit exceeded)"),
        (lambda packed: lzma.compress(b"no cloud"), "is not a PLY file"),
    ],
    ids=["a plain file", "two in one", "a bomb", "much memory", "no PLY inside"],
)
def test_what_is_no_compressed_cloud_is_refused(cloud, change, words) -> None:
    packed = compress(cloud)
    packed.write_bytes(change(packed.read_bytes()))
    assert words in message(packed)


def test_a_bomb_is_not_unpacked_to_be_refused(cloud) -> None:
    packed = compress(cloud)
    packed.write_bytes(lzma.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        message(packed)
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


def killed_in(function: str, cloud: Path) -> None:
    """A process that compresses the cloud, killed as it calls one of the functions."""
    if (child := os.fork()) == 0:
        kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        where, _, name = function.rpartition(".")
        setattr({"LZMAFile": ply_file.lzma.LZMAFile, "os": os, "Path": Path}[where], name, kill)
        compress(cloud)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("function", ["LZMAFile.write", "LZMAFile.close", "os.fsync", "os.replace", "Path.unlink"])
def test_a_kill_at_any_moment_leaves_a_whole_cloud(cloud, function) -> None:
    whole, run = read_vertices(cloud), cloud.parents[2]
    killed_in(function, cloud)
    assert np.array_equal(read_vertices(last_point_cloud(run)[1]), whole)
    compress(cloud)
    assert [path.name for path in cloud.parent.glob("point_cloud.ply*")] == ["point_cloud.ply.xz"]
    assert np.array_equal(read_vertices(last_point_cloud(run)[1]), whole)


def test_of_two_clouds_the_plain_one_is_read(cloud) -> None:
    """Compression removes it last, so it is the newer."""
    old = compress(cloud)
    GaussianModel.from_ply(old).save_ply(cloud)
    assert last_point_cloud(cloud.parents[2]) == (5, cloud)
