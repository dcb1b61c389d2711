# SPDX-License-Identifier: Apache-2.0
"""GaussianDreamer's start: which points are added around an initial cloud, with which colours, and in a run."""

import sys

import numpy as np
import pytest

import train
from scene.dataset_readers import initial_vertices, read_point_cloud
from scene.ply import write_vertices
from scene.point_growing import COLOUR_NOISE, grow
from tests.checkout import ROOT
from utils.graphics_utils import BasicPointCloud


def square(n=40):
    """A flat square of n^2 points, side 1, in a box that is 0.5 high because of one more point."""
    axis = np.linspace(0, 1, n)
    points = np.stack([*np.meshgrid(axis, axis), np.zeros((n, n))], axis=-1).reshape(-1, 3)
    points = np.concatenate([points, [[0.5, 0.5, 0.5]]])
    return BasicPointCloud(points, np.full((len(points), 3), 0.25), np.ones_like(points))


def test_added_points_lie_nearer_than_the_distance_and_number_as_the_volume_does():
    cloud, candidates, distance = square(), 40_000, 0.02
    grown = grow(cloud, candidates, distance, np.random.RandomState(0))
    n = len(cloud.points)
    added = grown.points[n:]
    away = np.linalg.norm(added[:, None] - cloud.points[None], axis=-1).min(1)
    assert away.max() < distance
    # half-balls around the points, which overlap: between a layer's lower and upper bound
    spacing = 1 / 39
    layer = 2 * np.sqrt(distance**2 - spacing**2 / 2)  # two sides; only the upper one is in the box
    assert 0.8 * layer / 2 / 0.5 < len(added) / candidates < 1.05 * distance / 0.5
    assert np.array_equal(grown.points[:n], cloud.points) and np.array_equal(grown.normals[:n], cloud.normals)
    assert not grown.normals[n:].any()


def test_added_colours_are_the_neighbours_and_a_tenth_brighter():
    cloud = square()
    grown = grow(cloud, 40_000, 0.02, np.random.RandomState(0))
    brighter = grown.colors[len(cloud.points) :] - 0.25
    assert brighter.min() >= 0 and brighter.max() <= COLOUR_NOISE
    assert brighter.mean() == pytest.approx(0.1, abs=0.005)
    white = BasicPointCloud(cloud.points, np.full_like(cloud.colors, 0.95), cloud.normals)
    assert grow(white, 40_000, 0.02, np.random.RandomState(0)).colors.max() == 1


def test_equal_seeds_grow_equal_points_and_nothing_is_near_enough_at_a_tiny_distance():
    cloud = square(5)
    first, second = (grow(cloud, 1000, 0.1, np.random.RandomState(3)) for _ in range(2))
    assert np.array_equal(first.points, second.points) and np.array_equal(first.colors, second.colors)
    assert len(grow(cloud, 1000, 1e-9, np.random.RandomState(3)).points) == len(cloud.points)


SMALL = ["--opt", "toy", "--iterations", "1", "--image_w", "32", "--image_h", "32", "--init_num_pts", "100", "--save_video", "false", "--device", "cpu"]


def run(tmp_path, *flags):
    """Exit status of a run of one step in the folder `run`."""
    return train.main([*SMALL, "--model_path", str(tmp_path / "run"), *map(str, flags)])


def test_a_run_begins_with_the_points_of_a_file_grown(tmp_path):
    source = tmp_path / "start.ply"
    write_vertices(source, initial_vertices(square(8)))
    flags = ("--init_shape", "file", "--init_file", source)
    assert run(tmp_path, *flags, "--init_grow", 3000, "--init_grow_distance", 0.1) == 0
    start = read_point_cloud(tmp_path / "run" / "init_points3d.ply")
    np.testing.assert_allclose(start.points[:65], square(8).points, atol=1e-6)
    assert 65 + 200 < len(start.points) < 65 + 3000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "GenerateCamParams.init_file"),
        (("--init_file", "absent.ply"), "absent.ply"),
        (("--init_file", ROOT / "README.md"), "README.md"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_before_the_folder_exists(tmp_path, capsys, flags, said):
    assert run(tmp_path, "--init_shape", "file", *flags) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [(), ("--dry_run", "true")], ids=["start", "dry run"])
def test_a_file_out_of_the_cameras_reach_is_refused_before_the_folder_exists(tmp_path, capsys, words):
    far = square(8)
    write_vertices(tmp_path / "far.ply", initial_vertices(far._replace(points=far.points + 1e4)))
    assert run(tmp_path, "--init_shape", "file", "--init_file", tmp_path / "far.ply", *words) == 2
    assert "units from the origin; expected some within" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_scipy_growing_is_refused_before_the_folder_exists(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    assert run(tmp_path, "--init_grow", 10) == 2
    assert "SciPy" in capsys.readouterr().err and not (tmp_path / "run").exists()
