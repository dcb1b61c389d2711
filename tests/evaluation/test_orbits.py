# SPDX-License-Identifier: Apache-2.0
"""evaluation/orbits.py: the sphere that must fit, and cameras that look at its centre."""

import math

import pytest
import torch

from evaluation.orbits import Orbit, camera_on_orbit, colour_of, framing, full_turn
from export.scan import project
from scene.dataset_readers import camera_at
from tests.drawn import Draws
from tests.red_ball import red_ball


def test_framing_holds_the_solid_part_of_all_clouds_and_not_a_floater() -> None:
    ball = red_ball()  # radius 0.46, deviations exp(-4)
    ball.get_xyz.data += torch.tensor([1.0, 2, 3])
    ball.get_xyz.data[0] = torch.tensor([50.0, 0, 0])
    alone = framing([ball])
    assert torch.allclose(alone.centre, torch.tensor([1.0, 2, 3]), atol=0.02)
    assert alone.radius == pytest.approx(0.46 + 2 * math.exp(-4), abs=0.02)
    faint = red_ball()
    faint.get_xyz.data *= 10
    faint.parameters_in_order()["opacity"].data[5:].fill_(-5.0)
    ball.get_xyz.data -= torch.tensor([1.0, 2, 3])
    assert framing([ball, faint]).radius < 0.6


def test_a_camera_at_the_fitting_distance_holds_the_sphere_with_a_margin() -> None:
    seen, fov_rad = framing([red_ball()]), 0.6
    camera = camera_on_orbit(seen.centre, Orbit(200, 200, fov_rad, 0.0, seen.distance(fov_rad)), 0)
    directions = Draws(0).directions(4000, 3)
    places, _ = project((seen.centre + seen.radius * directions).numpy(), camera)
    assert 2 < places.min() < 8 and 192 < places.max() < 198


def test_cameras_look_at_the_centre_and_agree_with_training_s_at_the_origin() -> None:
    centre = torch.tensor([1.0, -2.0, 0.5])
    orbit = Orbit(80, 60, 0.7, 20.0, 3.0)
    cameras = full_turn(centre, orbit, 4)
    assert len(cameras) == 4
    for k, camera in enumerate(cameras):
        places, depth = project(centre[None].numpy(), camera)
        assert places[0] == pytest.approx([40, 30], abs=1e-3) and depth[0] == pytest.approx(3.0, abs=1e-4)
        own = camera_at(3.0, 70.0, 90.0 * k, 0.7, 80, 60)
        assert torch.allclose(camera.camera_center - centre, own.camera_center, atol=1e-5)
        assert torch.allclose(camera.world_view_transform[:3, :3], own.world_view_transform[:3, :3])
    assert torch.equal(
        camera_on_orbit(torch.zeros(3), orbit, 90.0).full_proj_transform,
        camera_at(3.0, 70.0, 90.0, 0.7, 80, 60).full_proj_transform,
    )


def test_colours_by_name_and_number() -> None:
    assert colour_of("white") == (1, 1, 1) and colour_of("#204060") == (32 / 255, 64 / 255, 96 / 255)
    for wrong in ("#20406", "pink", "204060", "#20406g"):
        with pytest.raises(ValueError, match="expected white, black, grey or #rrggbb"):
            colour_of(wrong)
