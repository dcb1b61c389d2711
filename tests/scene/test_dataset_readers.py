# SPDX-License-Identifier: Apache-2.0
"""Pose laws and initial points against upstream's recorded numbers, and laws of their own."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import GenerateCamParams, OptimizationParams
from scene.dataset_readers import (
    CameraRanges,
    camera_at,
    circle_cameras,
    initial_points,
    initial_vertices,
    load_or_sample_points,
    random_cameras,
)
from scene.ply import write_vertices
from utils.camera_utils import camera_to_JSON
from utils.graphics_utils import BasicPointCloud
from utils.random_streams import RandomStreams

# Recorded field -> ours.
FIELDS = {"R": "R", "T": "T", "FovX": "FoVx", "FovY": "FoVy", "delta_polar": "delta_polar"}
FIELDS |= {name: name for name in ("delta_azimuth", "delta_radius", "world_view_transform", "full_proj_transform")}
FIELDS |= {"camera_center": "camera_center"}


def _params(**values) -> GenerateCamParams:
    return GenerateCamParams(**{key: tuple(x) if isinstance(x, list) else x for key, x in values.items()})


def _assert_cameras(cameras, golden, prefix) -> None:
    assert len(cameras) == len(golden[f"{prefix}/R"])
    for recorded, ours in FIELDS.items():
        values = np.stack([np.asarray(getattr(camera, ours)) for camera in cameras])
        np.testing.assert_allclose(values, golden[f"{prefix}/{recorded}"], rtol=0, atol=1e-5, err_msg=recorded)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("case", ["default", "narrow_gamma", "nonsquare_nojitter", "uniform_sphere", "ssaa2"])
def test_random_cameras_are_upstreams(golden_dir, upstream_fov, case, seed) -> None:
    params = _params(**json.loads((golden_dir / "cameras_cases.json").read_text())["configs"][case])
    cameras = random_cameras(params, CameraRanges.from_params(params), 6, RandomStreams(seed), "cpu")
    golden = np.load(golden_dir / "cameras.npz")
    _assert_cameras(cameras, golden, f"{case}/seed{seed}")
    assert [cameras[0].image_height, cameras[0].image_width] == golden[f"{case}/seed{seed}/image_hw"].tolist()


CIRCLES = {"circle8": (8, False, {}), "circle4_45": (4, True, {"image_w": 64, "image_h": 48})}


@pytest.mark.parametrize("name", CIRCLES)
def test_circle_cameras_and_their_json_are_upstreams(golden_dir, upstream_fov, name) -> None:
    size, render_45, sides = CIRCLES[name]
    cameras = circle_cameras(_params(**sides), size, "cpu", render_45)
    _assert_cameras(cameras, np.load(golden_dir / "cameras.npz"), name)
    ours = [camera_to_JSON(ind, camera) for ind, camera in enumerate(cameras)]
    recorded = json.loads((golden_dir / f"cameras_{name}.json").read_text())
    assert [list(record) for record in ours] == [list(record) for record in recorded]  # keys, in order
    for record, wanted in zip(ours, recorded, strict=True):
        for key, value in wanted.items():
            np.testing.assert_allclose(record[key], value, rtol=1e-6, atol=1e-6, err_msg=key)


def test_circle_positions() -> None:
    cameras = circle_cameras(GenerateCamParams(), 4, "cpu")
    wanted = [[0, 3.5, 0], [3.5, 0, 0], [0, -3.5, 0], [-3.5, 0, 0]]
    assert np.stack([camera.camera_center for camera in cameras]) == pytest.approx(np.array(wanted), abs=1e-5)
    raised = circle_cameras(GenerateCamParams(default_polar=89), 2, "cpu", render_45=True)[2]
    assert raised.delta_polar == pytest.approx(89 * 2 // 3 - 89)


def test_camera_at_agrees_with_random_cameras() -> None:
    """The same pose, asked for by name, gives the same matrices."""
    params = GenerateCamParams(jitter_pose=False, image_w=96, image_h=64)
    for camera in random_cameras(params, CameraRanges.from_params(params), 5, RandomStreams(3), "cpu"):
        place = (camera.delta_radius + 3.5, camera.delta_polar + 90, camera.delta_azimuth)
        same = camera_at(*place, camera.FoVy, 96, 64)
        assert same.full_proj_transform.numpy() == pytest.approx(camera.full_proj_transform.numpy(), abs=1e-5)
        assert (same.FoVx, same.FoVy) == (camera.FoVx, camera.FoVy)
        assert same.delta_azimuth == pytest.approx(camera.delta_azimuth, abs=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(1, 90),
    st.floats(0, 89),
    st.floats(-180, 0),
    st.floats(0, 180),
    st.floats(1, 3),
)
def test_random_poses_stay_in_their_ranges(seed, theta_lo, theta_span, phi_lo, phi_hi, gamma) -> None:
    ranges = CameraRanges((2.0, 2.5), (theta_lo, theta_lo + theta_span), (phi_lo, phi_hi), (0.3, 0.4))
    cameras = random_cameras(GenerateCamParams(rand_cam_gamma=gamma), ranges, 8, RandomStreams(seed), "cpu")
    for camera in cameras:
        assert 2.0 - 1e-5 <= camera.delta_radius + 3.5 <= 2.5 + 1e-5
        assert theta_lo - 1e-3 <= camera.delta_polar + 90 <= theta_lo + theta_span + 1e-3
        assert phi_lo - 1e-3 <= camera.delta_azimuth <= phi_hi + 1e-3
        assert 0.3 <= camera.FoVy <= 0.4
    assert len({camera.FoVy for camera in cameras}) == 1


def test_uniform_sphere_looks_from_the_half_with_positive_y() -> None:
    params = GenerateCamParams(uniform_sphere_rate=1.0, jitter_pose=False)
    cameras = random_cameras(params, CameraRanges.from_params(params), 50, RandomStreams(1), "cpu")
    centres = np.stack([camera.camera_center for camera in cameras])
    assert (centres[:, 1] >= 0).all() and (centres[:, 2] < 0).any()


def test_ranges_are_widened_as_upstream_does(golden_dir) -> None:
    recorded = json.loads((golden_dir / "schedules.json").read_text())["progressive_ranges"]
    configs = json.loads((golden_dir / "arguments.json").read_text())["configs"]
    assert len(recorded) == 9
    for name, changes in recorded.items():
        effective = configs[name]["effective"]
        params, opt = _params(**effective["GenerateCamParams"]), _opt(effective["OptimizationParams"])
        ranges = CameraRanges.from_params(params)
        for change in changes:
            ranges = ranges.widened(opt, params)
            ours = {"fovy": ranges.fovy_rad, "radius": ranges.radius, "theta": ranges.theta_deg, "phi": ranges.phi_deg}
            wanted = {key: tuple(change[key]) for key in ours}
            assert ours == {key: pytest.approx(value, rel=1e-12) for key, value in wanted.items()}, change["iteration"]


def _opt(values) -> OptimizationParams:
    names = ("scale_up_factor", "fovy_scale_up_factor", "phi_scale_up_factor")
    return OptimizationParams(**{name: values[name] for name in names})


@pytest.mark.parametrize("shape", ["sphere", "box", "rectangle_x", "rectangle_z", "scene"])
def test_initial_points_are_upstreams(golden_dir, tmp_path, shape) -> None:
    params = GenerateCamParams(init_shape=shape, init_num_pts=500)
    cloud, vertices = load_or_sample_points(tmp_path / "init_points3d.ply", params, RandomStreams(3))
    write_vertices(tmp_path / "init_points3d.ply", vertices)
    again, nothing = load_or_sample_points(tmp_path / "init_points3d.ply", params, RandomStreams(4))
    assert nothing is None and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(cloud, again))
    golden = np.load(golden_dir / "init_points.npz")
    np.testing.assert_allclose(cloud.points, golden[f"{shape}/points"], rtol=1e-6, atol=1e-7)
    assert np.array_equal(cloud.colors, golden[f"{shape}/colors"])
    assert not cloud.normals.any()


def test_the_initial_file_is_byte_for_byte_upstreams(golden_dir, tmp_path) -> None:
    params = GenerateCamParams(init_shape="sphere", init_num_pts=500)
    write_vertices(tmp_path / "init.ply", initial_vertices(initial_points(params, RandomStreams(3))))
    assert (tmp_path / "init.ply").read_bytes() == (golden_dir / "init_points3d_sphere.ply").read_bytes()


def test_a_cloud_of_the_users_own_is_read_instead(tmp_path) -> None:
    """Whatever init_shape says, and nothing is drawn: the nine upstream configs ask for pointe."""
    path, streams = tmp_path / "init_points3d.ply", RandomStreams(0)
    mine = BasicPointCloud(np.eye(3), np.array([[0, 0.5, 1.0]] * 3), np.zeros((3, 3)))
    write_vertices(path, initial_vertices(mine))
    cloud, _ = load_or_sample_points(path, GenerateCamParams(init_shape="pointe"), streams)
    assert np.array_equal(cloud.points, np.eye(3))
    assert cloud.colors[0].tolist() == [0, 127 / 255, 1]
    assert streams.numpy.rand() == np.random.RandomState(0).rand()


@pytest.mark.parametrize("field", ["points", "colors", "normals"])
@pytest.mark.parametrize("value", [np.nan, 1e39])
def test_points_that_are_no_numbers_are_not_written(tmp_path, field, value) -> None:
    """Such as a network's that made them: a byte or a float32 would hide it."""
    arrays = {name: np.zeros((3, 3)) for name in ("points", "colors", "normals")}
    arrays[field][1, 1] = value
    cloud = BasicPointCloud(arrays["points"], arrays["colors"], arrays["normals"])
    if field == "colors" and value > 1:
        initial_vertices(cloud)  # colours are clipped
        return
    with pytest.raises(ValueError, match=r"the initial points hold NaN, infinity or more than 1e\+18"):
        initial_vertices(cloud)
    assert not (tmp_path / "c.ply").exists()


def _start(path, scale, offset, how="init_file"):
    """Eight points read as the initial ones, spread over `scale` units around `offset`, by either way."""
    points = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * scale + offset
    write_vertices(path, initial_vertices(BasicPointCloud(points, np.full((8, 3), 0.5), np.zeros((8, 3)))))
    if how == "init_points3d":
        return load_or_sample_points(path, GenerateCamParams(), RandomStreams(0))[0].points
    return initial_points(GenerateCamParams(init_shape="file", init_file=str(path)), RandomStreams(0)).points


@pytest.mark.parametrize("how", ["init_file", "init_points3d"])
@pytest.mark.parametrize(("scale", "offset"), [(1000, 0), (1, 100), (1, (5e5, 4.5e6, 100)), (1e6, 0)])
def test_points_out_of_the_cameras_reach_are_refused(tmp_path, how, scale, offset) -> None:
    """In millimetres, or in a country's coordinates: the run would train an empty image."""
    with pytest.raises(ValueError, match=r"lie \S+ to \S+ units from the origin; expected some within 55 of it") as caught:
        _start(tmp_path / "p.ply", scale, offset, how)
    assert str(tmp_path / "p.ply") in str(caught.value) and "move and rescale" in str(caught.value)


@pytest.mark.parametrize("how", ["init_file", "init_points3d"])
@pytest.mark.parametrize(
    ("scale", "offset", "told"),
    [(1, 0, ""), (30, 0, ""), (0.05, 3, ""), (1e-3, 0, "too small to be seen apart"), (80, 30, "7 of 8 points of")],
)
def test_points_in_odd_units_are_read_and_reported(tmp_path, caplog, how, scale, offset, told) -> None:
    assert len(_start(tmp_path / "p.ply", scale, offset, how)) == 8
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == bool(told) and all(told in line and "move and rescale" in line for line in lines)
