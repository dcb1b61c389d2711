# SPDX-License-Identifier: Apache-2.0
"""The toy world's geometry: symmetry, extent, cameras, hits and normals."""

import numpy as np
import pytest

from toy import raycast
from toy.builders import ball, box, ring, rod, tube
from toy.compose import compose
from toy.objects import CLASSES, ONE_SIDED, PARTS, primitives_of
from toy.raycast import View, camera_axes, camera_centre, render_gbuffers, render_primitives
from toy.shapes import Ellipsoid, Paint

FOV_RAD, RADIUS = 0.40, 3.5


def render_gbuffer(class_name, theta_deg, phi_deg, size_px=48, radius=RADIUS, fov_rad=FOV_RAD):
    return render_primitives(primitives_of(class_name), View(theta_deg, phi_deg, radius, fov_rad), size_px)


@pytest.mark.parametrize("class_name", CLASSES)
def test_objects_are_mirror_symmetric_and_fit_the_picture(class_name):
    right = render_gbuffer(class_name, 70, 37).astype(int)
    left = render_gbuffer(class_name, 70, -37).astype(int)[:, :, ::-1]
    assert (np.abs(right - left) > 2).mean() < 1e-3
    for theta, phi in ((50, 45), (70, 37), (90, 0), (105, 90)):
        coverage = render_gbuffer(class_name, theta, phi)[5]
        assert max(coverage[0].max(), coverage[-1].max(), coverage[:, 0].max(), coverage[:, -1].max()) < 128
    assert 0.1 < right[5].mean() / 255 < 0.8


@pytest.mark.parametrize("class_name", CLASSES)
def test_front_and_back_differ_for_the_one_sided(class_name):
    front, back = (render_gbuffer(class_name, 80, phi).astype(float) for phi in (0, 180))
    fixed = np.abs(front[:3] - back[:3]).max(axis=0) > 60
    if class_name in ONE_SIDED:
        assert fixed.mean() > 0.003
    assert class_name in PARTS


@pytest.mark.parametrize("class_name", CLASSES)
def test_both_colour_slots_are_seen(class_name):
    planes = [render_gbuffer(class_name, 70, phi) for phi in (30, 110)]
    for slot in (3, 4):
        assert max((view[slot] > 60).mean() for view in planes) > 0.01


@pytest.mark.parametrize(
    "primitive",
    [
        ball((0.1, -0.05, 0.02), (0.3, 0.2, 0.4), Paint((1, 1, 1))),
        box((0.05, 0.1, -0.1), (0.3, 0.2, 0.25), Paint((1, 1, 1))),
        tube((0, 0.1, 0), 0.3, 0.1, 0.6, Paint((1, 1, 1))),
        rod((-0.2, 0, -0.3), (0.2, 0.1, 0.3), 0.15, 0.0, Paint((1, 1, 1))),
        ring((0, 0, 0.05), 0.3, 0.12, Paint((1, 1, 1)), z_min=0.02),
        Ellipsoid((0, 0, 0), Paint((1, 1, 1)), radii=(0.4, 0.4, 0.3), z_min=0.05),
    ],
)
def test_hits_agree_with_marching_through_the_solid(primitive):
    """The first meeting found by small steps through an inside test written here, not by the closed form."""
    rng = np.random.default_rng(3)
    origin = np.array([1.2, 2.6, 1.5])
    aims = rng.uniform(-0.6, 0.6, (400, 3))
    local_origin = (origin - np.array(primitive.centre)) @ primitive.rotation
    local_directions = (aims - origin) @ primitive.rotation
    t, _ = primitive.hit(local_origin, local_directions)
    steps = np.linspace(0.5, 1.6, 4000)
    points = local_origin + steps[:, None, None] * local_directions  # [steps, rays, 3]
    inside = _inside(primitive, points)
    marched = np.where(inside.any(axis=0), steps[inside.argmax(axis=0)], np.inf)
    both = np.isfinite(t) & np.isfinite(marched)
    assert both.sum() > 30
    np.testing.assert_allclose(t[both], marched[both], atol=4e-3)
    assert (np.isfinite(t) != np.isfinite(marched)).sum() <= 4  # rays that graze the edge


def _inside(primitive, p):
    kind = type(primitive).__name__
    if kind == "Ellipsoid":
        return ((p / np.array(primitive.radii)) ** 2).sum(-1).__le__(1) & (p[..., 2] >= primitive.z_min)
    if kind == "Hull":
        return (p @ primitive.normals.T <= primitive.offsets).all(-1)
    if kind == "Frustum":
        half, share = primitive.height / 2, (p[..., 2] + primitive.height / 2) / primitive.height
        radius = primitive.r_bottom + (primitive.r_top - primitive.r_bottom) * share
        return (np.abs(p[..., 2]) <= half) & (np.hypot(p[..., 0], p[..., 1]) <= radius)
    across = np.hypot(p[..., 0], p[..., 1]) - primitive.ring_radius
    return (np.hypot(across, p[..., 2]) <= primitive.tube_radius) & (p[..., 2] >= primitive.z_min)


def test_a_point_lands_where_the_scenes_camera_puts_it():
    """A small ball is seen at the pixel that the project's camera projects its centre to."""
    torch = pytest.importorskip("torch")
    from scene.dataset_readers import camera_at

    for theta, phi in ((60.0, 25.0), (95.0, -140.0), (90.0, 180.0)):
        at = (0.21, -0.13, 0.3)
        planes = render_primitives([ball(at, 0.05, Paint((1, 1, 1)))], View(theta, phi, RADIUS, FOV_RAD), 64)
        weights = planes[5] / planes[5].sum()
        columns, rows = weights.sum(0) * np.arange(64), weights.sum(1) * np.arange(64)
        camera = camera_at(RADIUS, theta, phi, FOV_RAD, 64, 64)
        clip = torch.tensor([*at, 1.0]) @ camera.full_proj_transform
        expected = ((clip[:2] / clip[3]).numpy() + 1) * 32 - 0.5
        np.testing.assert_allclose([columns.sum(), rows.sum()], expected, atol=0.1)
        np.testing.assert_allclose(
            camera_centre(View(theta, phi, RADIUS, FOV_RAD)), camera.camera_center.numpy(), atol=1e-5
        )


def test_lit_from_above_and_slots_take_their_colours():
    planes = render_primitives([ball((0, 0, 0), 0.5, Paint(slot_a=1.0))], View(90, 0, RADIUS, FOV_RAD), 33)
    shade = planes[3].astype(float)
    assert shade[8, 16] > shade[16, 16] > shade[24, 16]
    image = compose(planes, (0.2, 0.4, 0.8), (1, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(image[:, 16, 16], np.array([0.2, 0.4, 0.8]) * shade[16, 16] / 255, atol=1e-6)
    np.testing.assert_allclose(image[:, 0, 0], 1)


def test_batches_equal_single_views():
    views = [View(60, 10 * k, RADIUS, FOV_RAD) for k in range(5)]
    batch = render_gbuffers("car", views, 24)
    alone = [render_gbuffer("car", v.theta_deg, v.phi_deg, 24, v.radius, v.fov_rad) for v in views]
    np.testing.assert_array_equal(batch, np.stack(alone))


def test_unknown_class_and_pole_are_named():
    with pytest.raises(ValueError, match="'cathedral'; known ones: cube"):
        primitives_of("cathedral")
    with pytest.raises(ValueError, match="theta_deg = 0"):
        camera_axes(View(0, 0, 3.5, 0.4))
    with pytest.raises(ValueError, match=r"\[\.\.\., 6, H, W\]"):
        compose(np.zeros((5, 4, 4), np.uint8), (0, 0, 0), (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("name", CLASSES)
def test_rays_are_cast_wherever_a_primitive_can_be_seen(name, monkeypatch):
    """As if every ray were cast at every primitive; one of 830,000 values differed by 1 in 255, the bound is 3 an object."""
    views = [View(60, 20, 3.5, 0.4), View(100, 130, 2.5, 0.6), View(15, 250, 4.5, 0.3)]
    made = render_gbuffers(name, views, 48)
    monkeypatch.setattr(raycast, "_window", lambda *given: (slice(0, given[-1]),) * 2)
    away = made.astype(int) - render_gbuffers(name, views, 48)
    assert abs(away).max() <= 1 and np.count_nonzero(away) <= 3
