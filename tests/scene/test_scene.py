# SPDX-License-Identifier: Apache-2.0
"""The scene of a run: files, camera stack, agreement with the recorded start of upstream's loop."""

import json

import numpy as np
import pytest
import torch

from arguments import Config, GenerateCamParams, ModelParams
from scene import Scene
from scene.gaussian_model import GaussianModel
from scene.ply import read_vertices
from utils.random_streams import RandomStreams


def _scene(folder, seed: int = 0, sh_degree: int = 0, **cameras) -> tuple[Scene, RandomStreams]:
    sides = {"image_w": 64, "image_h": 64, "init_num_pts": 400, **cameras}
    config = Config(model=ModelParams(model_path=str(folder), sh_degree=sh_degree), cameras=GenerateCamParams(**sides))
    streams = RandomStreams(seed)
    return Scene(config, GaussianModel(sh_degree), streams, "cpu"), streams


@pytest.mark.parametrize("name", ["plain", "perpneg_sh1"])
def test_the_first_cloud_and_cameras_are_upstreams(golden_dir, tmp_path, name) -> None:
    """Same seed: the recorded cloud of iteration 1, and the centre of the first camera taken from the stack."""
    recorded = json.loads((golden_dir / "end_to_end" / f"trace_{name}.json").read_text())
    scene, streams = _scene(tmp_path, recorded["seed"], recorded["config"]["ModelParams"]["sh_degree"])
    ours = read_vertices(scene.save(1))
    wanted = read_vertices(golden_dir / "end_to_end" / f"{name}_iter1.ply")
    assert ours.dtype == wanted.dtype
    for field in ours.dtype.names:
        np.testing.assert_allclose(ours[field], wanted[field], rtol=2e-6, atol=1e-6, err_msg=field)
    first = recorded["trace"][0]["views"][0]
    camera = scene.camera_stack.pop(streams)
    assert camera.camera_center.tolist() == pytest.approx(first["campos"], abs=1e-5)
    assert np.tan(camera.FoVx / 2) == pytest.approx(first["tanfovx"], rel=1e-9)


def test_files_of_a_new_scene(tmp_path) -> None:
    scene, _ = _scene(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["cameras.json", "init_points3d.ply"]
    records = json.loads((tmp_path / "run" / "cameras.json").read_text())
    assert [record["id"] for record in records] == list(range(16))
    assert len(scene.getTestCameras()) == 16
    assert len(scene.getCircleVideoCameras()) == 120
    assert len(scene.getCircleVideoCameras(6, render45=True)) == 12
    assert scene.save(7) == tmp_path / "run" / "point_cloud" / "iteration_7" / "point_cloud.ply"
    assert scene.cameras_extent == 3.5


def test_a_second_scene_reads_the_first_ones_points(tmp_path) -> None:
    first, _ = _scene(tmp_path, seed=0)
    second, _ = _scene(tmp_path, seed=1)
    assert torch.equal(first.gaussians.get_xyz, second.gaussians.get_xyz)


def test_a_broken_cloud_is_met_at_the_door(tmp_path) -> None:
    (tmp_path / "init_points3d.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n")
    with pytest.raises(ValueError, match=r"init_points3d\.ply lacks the vertex fields x, y, z"):
        _scene(tmp_path)


def test_the_stack_gives_each_camera_of_a_batch_once(tmp_path) -> None:
    scene, streams = _scene(tmp_path)
    taken = [scene.camera_stack.pop(streams).uid for _ in range(20)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10] != list(range(10))


def test_new_ranges_take_effect_with_the_next_batch(tmp_path) -> None:
    scene, streams = _scene(tmp_path)
    scene.camera_stack.pop(streams)
    scene.ranges = scene.ranges.widened(scene.config.optimization, scene.config.cameras)
    radii = [scene.camera_stack.pop(streams).delta_radius + 3.5 for _ in range(19)]
    assert min(radii[:9]) > 5.2 - 1e-5
    assert min(radii[9:]) < 5.2


def test_a_saved_stack_continues_as_the_unbroken_one(tmp_path) -> None:
    scene, streams = _scene(tmp_path)
    for _ in range(3):
        scene.camera_stack.pop(streams)
    stack_state, random_state = scene.camera_stack.state_dict(), streams.state_dict()
    wanted = [scene.camera_stack.pop(streams) for _ in range(12)]
    resumed, other = _scene(tmp_path, seed=99)
    resumed.camera_stack.load_state_dict(stack_state)
    other.load_state_dict(random_state)
    for camera in wanted:
        again = resumed.camera_stack.pop(other)
        for name, value in vars(camera).items():
            assert np.array_equal(getattr(again, name), value), name
            assert type(getattr(again, name)) is type(value), name


def test_an_empty_stack_has_an_empty_state(tmp_path) -> None:
    scene, _ = _scene(tmp_path)
    assert scene.camera_stack.state_dict() == {}
    scene.camera_stack.load_state_dict({})
    assert len(scene.camera_stack) == 0
