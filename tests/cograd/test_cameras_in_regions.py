# SPDX-License-Identifier: Apache-2.0
"""A view stands in the region that it is credited to, looks at its target, and records where it is rendered."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from arguments import CoGradParams, Config, GenerateCamParams
from arguments.load import load_config
from cograd.regions import RegionGrid
from scene import Scene, cameras
from scene.cameras import RCamera
from scene.dataset_readers import CameraRanges, PoseJitter
from tests.cograd.geometry import region_of
from trainer.draws import draw_views
from trainer.run_log import PhaseTimer
from trainer.state import TrainState
from utils.random_streams import RandomStreams

DRAWS = 2000
EXTREME = GenerateCamParams(jitter_center=4.0, jitter_target=1.5, jitter_up=0.7, image_w=48, image_h=32)
NARROW = CoGradParams(elevation_levels=9, azimuth_levels=720, distance_levels=8, neighbour_distance=1)
POLES = CoGradParams(elevation_levels=7, elevation_range=(-90.0, 90.0), azimuth_levels=61)
ONE_LEVEL = CoGradParams(elevation_levels=1, azimuth_levels=1, distance_levels=1)
FLAT = dataclasses.replace(
    ONE_LEVEL, azimuth_levels=5, elevation_range=(17.3, 17.3), distance_range=(math.sqrt(2), math.sqrt(2))
)


def _of(name: str) -> tuple[GenerateCamParams, CoGradParams]:
    config = load_config(["--opt", f"configs/{name}.yaml"])
    return config.cameras, config.cograd


CASES = {
    "prompt": _of("prompt"),
    "quickstart": _of("quickstart"),
    "extreme": (EXTREME, CoGradParams()),
    "narrow cells": (EXTREME, NARROW),
    "both poles": (EXTREME, POLES),
    "one level": (EXTREME, ONE_LEVEL),
    "no width": (EXTREME, FLAT),
    "jitter 0": (dataclasses.replace(EXTREME, jitter_center=0.0, jitter_target=0.0, jitter_up=0.0), CoGradParams()),
    "jitter off, narrow": (dataclasses.replace(EXTREME, jitter_pose=False), NARROW),
    "front behind": (dataclasses.replace(EXTREME, default_azimuth=-310.0), CoGradParams()),
}


def _scene(cam_params: GenerateCamParams) -> Scene:
    """The camera half of a scene: no folder, no Gaussians."""
    scene = object.__new__(Scene)
    scene.config, scene.device = Config(cameras=cam_params), "cpu"
    scene.ranges = CameraRanges.from_params(cam_params)
    return scene


def _drawn(cam_params, grid, count: int = DRAWS, seed: int = 5) -> tuple[list[int], list[RCamera]]:
    streams = RandomStreams(seed)
    regions = torch.from_numpy(np.random.default_rng(seed).integers(0, len(grid), count))
    poses = grid.sample_poses(regions, streams.torch)
    made = _scene(cam_params).cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, streams, poses.cells)
    return regions.tolist(), made


def _place(camera: RCamera) -> tuple[float, float, float]:
    """Polar angle and azimuth in degrees, and radius, from nothing but the matrix that the renderer uses."""
    x, y, z = np.linalg.inv(camera.world_view_transform.double().numpy())[3, :3]
    radius = math.sqrt(x * x + y * y + z * z)
    return math.degrees(math.acos(z / radius)), math.degrees(math.atan2(x, y)), radius


@pytest.mark.parametrize("name", CASES)
def test_every_view_stands_in_the_region_it_is_credited_to(name) -> None:
    cam_params, cograd_params = CASES[name]
    grid = RegionGrid.from_params(cograd_params)
    regions, made = _drawn(cam_params, grid)
    assert [region_of(grid, *_place(camera)) for camera in made] == regions


@pytest.mark.parametrize("name", CASES)
def test_deltas_are_those_of_the_camera_as_rendered(name) -> None:
    cam_params, cograd_params = CASES[name]
    for camera in _drawn(cam_params, RegionGrid.from_params(cograd_params), 300)[1]:
        theta_deg, phi_deg, radius = _place(camera)
        off_by = math.remainder(camera.delta_azimuth + cam_params.default_azimuth - phi_deg, 360)
        assert abs(off_by) * math.sin(math.radians(theta_deg)) < 1e-4
        assert -180 < camera.delta_azimuth <= 180
        assert camera.delta_polar + cam_params.default_polar == pytest.approx(theta_deg, abs=1e-3)
        assert camera.delta_radius + cam_params.default_radius == pytest.approx(radius, rel=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_jittered_target_is_in_the_middle_of_the_image(name, monkeypatch) -> None:
    cam_params, cograd_params = CASES[name]
    targets, draw = [], PoseJitter.draw

    def recorded(*args):
        targets.extend((jitter := draw(*args)).target)
        return jitter

    monkeypatch.setattr(PoseJitter, "draw", recorded)
    made = _drawn(cam_params, RegionGrid.from_params(cograd_params), 300)[1]
    assert len(targets) == len(made)
    for camera, target in zip(made, targets):
        x, y, _, depth = torch.cat([target, torch.ones(1)]) @ camera.full_proj_transform
        assert depth > 0 and math.hypot(x, y) < 2e-5 * max(1, float(depth))
        np.testing.assert_allclose(camera.R.T @ camera.R, np.eye(3), atol=1e-6)
        assert np.linalg.det(camera.R) == pytest.approx(1, abs=1e-6)
        shift = camera.world_view_transform[3, :3].numpy()
        np.testing.assert_allclose(-camera.R.T @ camera.camera_center.numpy(), shift, atol=1e-5)
        np.testing.assert_array_equal(camera.T, shift)
    moved = max(float(target.norm()) for target in targets)
    assert (moved > 0) == (cam_params.jitter_pose and cam_params.jitter_target > 0)


def test_up_jitter_turns_the_camera_about_its_viewing_axis() -> None:
    centre, target = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.1, 0.0, -0.2]])
    straight, _ = cameras.aim_at(centre, target, torch.zeros(1, 3))
    rolled, _ = cameras.aim_at(centre, target, torch.tensor([[0.0, 0.3, 0.1]]))
    turn = (straight[0].T @ rolled[0]).numpy()
    assert turn[:, 2] == pytest.approx([0, 0, 1], abs=1e-6) and 0.05 < abs(turn[0, 1]) < 0.5
    assert float(straight[0, 2, 1]) < 0  # the image's down is down


def test_the_jittered_centre_is_still_uniform_in_its_cell() -> None:
    """Clamping would pile up a third of these at the borders; reflection leaves deciles where they are."""
    grid = RegionGrid()
    streams, cell = RandomStreams(3), grid.cell(64)
    poses = grid.sample_poses(torch.full((4000,), 64), streams.torch)
    scene = _scene(dataclasses.replace(GenerateCamParams(), jitter_center=0.2))
    made = scene.cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, streams, poses.cells)
    places = np.array([_place(camera) for camera in made])
    for values, (low, high) in zip(places.T, (cell.theta_deg, cell.phi_deg, cell.radius)):
        share = (values % 360 - low) / (high - low)
        assert np.quantile(share, [0.02, 0.1, 0.5, 0.9, 0.98]) == pytest.approx([0.02, 0.1, 0.5, 0.9, 0.98], abs=0.025)


def test_centre_jitter_moves_cameras_inside_their_cells() -> None:
    """It is no setting without effect: a camera moves by it, and by no more than it."""
    grid = RegionGrid()
    by = {}
    for width in (0.0, 0.05):
        by[width] = _drawn(dataclasses.replace(GenerateCamParams(), jitter_center=width), grid, 300)[1]
    moved = [float((a.camera_center - b.camera_center).norm()) for a, b in zip(by[0.0], by[0.05])]
    assert float(np.median(moved)) > 0.015 and max(moved) < 0.05 / 2 * math.sqrt(3) + 1e-5


@pytest.mark.parametrize(
    "azimuth, sector, expected",
    [(359.9, (348, 360), 359.9), (-0.1, (348, 360), 359.9), (0.5, (348, 360), 359.5), (359.5, (0, 12), 0.5), (372.5, (0, 12), 11.5), (725.0, (0, 360), 5.0)],
)  # fmt: skip
def test_azimuth_wraps_around_at_the_border(azimuth, sector, expected) -> None:
    grid = RegionGrid((1, 1 if sector == (0, 360) else 30, 1))
    cell = grid.cell(0 if sector[0] == 0 else 29)
    assert cell.phi_deg == pytest.approx(sector)
    radius, theta_deg, phi_deg = cameras.kept_within(1.7, 80.0, azimuth, cell)
    assert phi_deg == pytest.approx(expected, abs=3e-4) and (radius, theta_deg) == pytest.approx((1.7, 80.0))


def test_by_the_baselines_law_a_third_of_them_stood_elsewhere() -> None:
    """docs/equations.md states the shares of prompt.yaml: of 20000 views 30.9 % stood elsewhere, 2.9 % in no region."""
    cam_params, grid, streams = CASES["prompt"][0], RegionGrid.from_params(CASES["prompt"][1]), RandomStreams(5)
    regions = torch.from_numpy(np.random.default_rng(5).integers(0, len(grid), DRAWS))
    place, jitter = grid.sample_poses(regions, streams.torch), PoseJitter.draw(cam_params, DRAWS, streams)
    angles = place.radius, torch.deg2rad(place.theta_deg), torch.deg2rad(place.phi_deg)
    centre = cameras.centre_on_sphere(*angles) + jitter.centre
    poses = cameras.Poses(place.radius, place.theta_deg, place.phi_deg, centre, jitter.target, jitter.up)
    law = cameras.Lens(0.9, 8, 8), (90.0, 0.0, 3.5), "cpu", cameras.upstream_look_at
    placed = []
    for camera in cameras.cameras_from_poses(poses, *law):
        placed.append(region_of(grid, *_place(camera)))
    assert np.mean(np.array(placed) != regions.numpy()) == pytest.approx(0.309, abs=0.03)
    assert placed.count(-1) / DRAWS == pytest.approx(0.029, abs=0.012)


def test_a_training_step_takes_these_cameras(tmp_path) -> None:
    words = "--text thing --device cpu --C_batch_size 4 --init_num_pts 20 --image_w 16 --image_h 16 --jitter_center 4 --jitter_target 1.5"
    config = load_config([*words.split(), "--CoGradParams.enabled", "true", "--model_path", str(tmp_path)])
    state = TrainState.start(config, "cpu")
    state.begin_cograd(config, torch.linspace(0.999, 0.005, 1000))
    for state.iteration in range(1, 40):
        drawn = draw_views(state, config, PhaseTimer())
        places = [region_of(state.cograd.grid, *_place(camera)) for camera, _ in drawn.views]
        assert places == drawn.plan.regions.tolist()
