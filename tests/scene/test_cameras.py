# SPDX-License-Identifier: Apache-2.0
"""Laws of a camera: a known point lands where the pinhole model says; fields of view; deltas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.cameras import Lens
from scene.dataset_readers import PoseJitter, camera_at, placed_cameras

angles = {"theta_deg": st.floats(1, 179), "phi_deg": st.floats(-360, 360), "radius": st.floats(0.5, 8)}


def _project(camera, point) -> tuple[np.ndarray, float]:
    """Pixel (column, row) and view depth of a world point, by the rasterizer's convention."""
    row = torch.cat([torch.as_tensor(point, dtype=torch.float32), torch.ones(1)])
    clip = row @ camera.full_proj_transform
    ndc = (clip[:2] / clip[3]).numpy()
    sides = np.array([camera.image_width, camera.image_height])
    return ((ndc + 1) * sides - 1) / 2, float((row @ camera.world_view_transform)[2])


@settings(deadline=None, max_examples=40)
@given(**angles)
def test_the_origin_lands_in_the_middle_at_the_radius(theta_deg, phi_deg, radius) -> None:
    camera = camera_at(radius, theta_deg, phi_deg, 0.5, 65, 33)
    pixel, depth = _project(camera, [0.0, 0.0, 0.0])
    assert pixel == pytest.approx([32, 16], abs=2e-3)
    assert depth == pytest.approx(radius, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(**angles)
def test_the_centre_is_where_the_angles_say(theta_deg, phi_deg, radius) -> None:
    camera = camera_at(radius, theta_deg, phi_deg, 0.5, 8, 8)
    theta, phi = math.radians(theta_deg), math.radians(phi_deg)
    wanted = [math.sin(theta) * math.sin(phi), math.sin(theta) * math.cos(phi), math.cos(theta)]
    assert camera.camera_center.tolist() == pytest.approx([radius * x for x in wanted], abs=2e-5 * radius)
    np.testing.assert_allclose(camera.R.T @ camera.R, np.eye(3), atol=1e-5)
    assert np.linalg.det(camera.R) == pytest.approx(1, abs=1e-5)


def test_from_the_front_up_is_up_and_x_is_to_the_left() -> None:
    """The camera at azimuth 0 stands at +y and looks along -y: world +z is up in the picture, world +x to the left."""
    camera = camera_at(4.0, 90.0, 0.0, 2 * math.atan(0.5), 100, 100)  # at depth 4 the picture is 4 world units wide
    assert camera.camera_center.tolist() == pytest.approx([0, 4, 0], abs=1e-5)
    assert _project(camera, [0.0, 0.0, 1.0])[0] == pytest.approx([49.5, 24.5], abs=1e-3)
    assert _project(camera, [1.0, 0.0, 0.0])[0] == pytest.approx([24.5, 49.5], abs=1e-3)


def test_the_vertical_field_of_view_is_kept_for_wide_pictures() -> None:
    camera = camera_at(4.0, 90.0, 0.0, 2 * math.atan(0.5), 300, 100)
    assert camera.FoVy == 2 * math.atan(0.5)
    assert math.tan(camera.FoVx / 2) == pytest.approx(1.5)
    above, _ = _project(camera, [0.0, 0.0, 1.0])
    beside, _ = _project(camera, [1.0, 0.0, 0.0])
    assert 49.5 - above[1] == pytest.approx(149.5 - beside[0], abs=1e-3)  # square pixels


@pytest.mark.parametrize(("phi_deg", "delta"), [(0, 0), (179, 179), (180, 180), (181, -179), (-90, -90), (359, -1)])
def test_delta_azimuth_is_wrapped(phi_deg, delta) -> None:
    camera = camera_at(4.0, 80.0, phi_deg, 0.5, 8, 8)
    assert camera.delta_azimuth == pytest.approx(delta)
    assert (camera.delta_polar, camera.delta_radius) == pytest.approx((-10, 0.5))


def test_jitter_moves_centre_and_target() -> None:
    jitter = PoseJitter(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.0, 0.0, 0.5]]), torch.zeros(1, 3))
    place = (torch.tensor([value], dtype=torch.float64) for value in (4.0, 90.0, 0.0))
    (camera,) = placed_cameras(*place, Lens(0.5, 65, 65), "cpu", (90.0, 0.0, 3.5), jitter)
    assert camera.camera_center.tolist() == pytest.approx([0.1, 4.2, 0.3], abs=1e-5)
    assert _project(camera, [0.0, 0.0, 0.5])[0] == pytest.approx([32, 32], abs=1e-3)
    assert camera.delta_radius == pytest.approx(math.hypot(0.1, 4.2, 0.3) - 3.5)  # deltas are those of this centre
