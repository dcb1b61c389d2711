# SPDX-License-Identifier: Apache-2.0
"""The yardstick itself: perfect, blurred, turned and wrong objects must be told apart."""

import json
import math

import numpy as np
import pytest
import torch

from evaluation.known_truth import renderer_of_gaussians
from scene.gaussian_model import GaussianModel
from tests.toy.calibration.scenes import FOV_RAD, KINDS, RADIUS, at_yaw, degraded, fitted, remapped
from toy import alignment, fronts, scoring
from toy.captions import DEFAULT_COLOURS, Spec
from toy.objects import ONE_SIDED
from toy.raycast import View
from toy.similarity import psnr, ssim
from toy.truth import renderer_of_truth

SIZE_PX = 64


def spec_of(class_name):
    return Spec(class_name, *DEFAULT_COLOURS[class_name])


def score(render, class_name):
    return scoring.score_object(render, spec_of(class_name), RADIUS, FOV_RAD, SIZE_PX)


@pytest.fixture(scope="module")
def robot():
    """Gaussians fitted to the robot: as sharp as a good run."""
    return fitted(renderer_of_truth(spec_of("robot")), seed=0, steps=120, points=700)


@pytest.fixture(scope="module")
def upright(robot):
    """Its scores as it is."""
    return score(renderer_of_gaussians(robot), "robot")


def rotated(cloud: GaussianModel, yaw_deg: float) -> GaussianModel:
    """The cloud itself turned about the vertical axis, from +y (azimuth 0) towards +x (azimuth 90)."""
    cos, sin = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    turn = torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    values = {name: value.detach().clone() for name, value in cloud.parameters_in_order().items()}
    w, x, y, z = values["rotation"].unbind(-1)
    c, s = math.cos(math.radians(-yaw_deg) / 2), math.sin(math.radians(-yaw_deg) / 2)
    values["rotation"] = torch.stack([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w], -1)
    values["xyz"] = values["xyz"] @ turn.T
    return GaussianModel.of_parameters(values)


# --- alignment --------------------------------------------------------------------------------------------------------


def faults(scores: dict, yaw_deg: float, upright: dict) -> list[str]:
    """What is wrong with the scores of the robot turned by yaw_deg; nothing with the right code."""
    found = []
    if abs(scores["psnr"] - upright["psnr"]) > 0.1:
        found.append("psnr")
    if abs((scores["yaw_deg"] - yaw_deg - upright["yaw_deg"] + 180) % 360 - 180) > 0.3:
        found.append("yaw")
    azimuths = np.arange(0, 360, fronts.STEP_DEG)
    expected = (azimuths - yaw_deg + 180) % 360 - 180
    wrong = np.abs((np.array(scores["assigned_deg"]) - expected + 180) % 360 - 180)
    if np.median(wrong) > fronts.TRUTH_STEP_DEG:
        found.append("assignment")
    return found


@pytest.mark.parametrize("yaw_deg", [37.3, 177.5, -1.26])
def test_a_turned_object_scores_as_the_unturned_one(robot, upright, yaw_deg):
    assert abs(upright["yaw_deg"]) < 1 and upright["psnr"] > 22 and upright["clean"]
    turned = score(renderer_of_gaussians(rotated(robot, yaw_deg)), "robot")
    assert faults(turned, yaw_deg, upright) == []
    for name in ("ssim", "iou", "detail"):
        assert turned[name] == pytest.approx(upright[name], abs=0.01)
    assert turned["clean"] and turned["fronts"] == 1
    if abs(yaw_deg) > 10:
        assert turned["psnr_unaligned"] < turned["psnr"] - 2 and turned["detail_unaligned"] < turned["detail"] - 0.1


@pytest.fixture
def coarse(monkeypatch):
    """No refinement of the yaw: hundreds of images of the truth, which are slow to cast."""
    monkeypatch.setattr(alignment, "REFINED_STEPS_DEG", ())


@pytest.mark.parametrize(("class_name", "yaw_deg"), [("owl", 85), ("rocket", 180)])
def test_the_truth_turned_has_full_marks(class_name, yaw_deg, coarse):
    scores = score(at_yaw(renderer_of_truth(spec_of(class_name)), yaw_deg), class_name)
    assert scores["psnr"] == scoring.MAX_PSNR and scores["ssim"] == pytest.approx(1) and scores["iou"] == 1
    assert scores["detail"] == pytest.approx(1, abs=1e-6) and (scores["yaw_deg"] - yaw_deg) % 360 == 0
    assert scores["clean"] and scores["front_share"] == pytest.approx(0.25, abs=0.03)


def one_step_on(step_deg, radius, fov_rad, views=fronts.scan_views):
    """An error to plant: the object's scan begins one step late."""
    found = views(step_deg, radius, fov_rad)
    return found[1:] + found[:1] if step_deg == fronts.STEP_DEG else found


def backwards(step_deg, radius, fov_rad, views=fronts.scan_views):
    """An error to plant: the object is scanned the other way round."""
    found = views(step_deg, radius, fov_rad)
    return found[:1] + found[:0:-1] if step_deg == fronts.STEP_DEG else found


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (fronts, "scan_views", one_step_on),
        (fronts, "scan_views", backwards),
        (alignment, "rotated_views", lambda views, yaw_deg, turned=alignment.rotated_views: turned(views, -yaw_deg)),
        (alignment, "coarse_yaw", lambda scan, yaw=alignment.coarse_yaw: -yaw(scan)),
        (alignment, "coarse_yaw", lambda scan, yaw=alignment.coarse_yaw: yaw(scan) + 7),
        (scoring, "rotated_views", lambda views, yaw_deg, turned=alignment.rotated_views: turned(views, -yaw_deg)),
    ],
    ids=["a step late", "backwards", "sign in the refinement", "sign", "a step and a half off", "sign of the score"],
)
def test_errors_planted_in_the_scan_are_caught(robot, upright, monkeypatch, module, name, error):
    monkeypatch.setattr(module, name, error)
    assert faults(score(renderer_of_gaussians(rotated(robot, 37.3)), "robot"), 37.3, upright)


# --- fronts -----------------------------------------------------------------------------------------------------------


def fronts_found(render, class_name):
    return fronts.fronts_of(fronts.scan(render, spec_of(class_name), RADIUS, FOV_RAD).assigned_deg)


@pytest.mark.parametrize("class_name", ONE_SIDED)
def test_the_truth_has_one_front_and_the_front_all_round_is_seen(class_name):
    truth = renderer_of_truth(spec_of(class_name))
    right = fronts_found(truth, class_name)  # half-way between two true views either may win
    assert right.clean and right.count == 1 and right.share == pytest.approx(0.25, abs=0.03)
    assert not fronts_found(remapped(truth, lambda azimuth: 0), class_name).clean
    assert fronts_found(remapped(truth, lambda azimuth: 180), class_name) == fronts.Fronts(0.0, 0)


@pytest.mark.parametrize("blur", [0.0, 0.016, 0.03])
@pytest.mark.parametrize("yaw_deg", [0, 37, 202, 315])
@pytest.mark.parametrize("class_name", ["robot", "owl"])
def test_a_two_faced_object_has_two_fronts_at_any_yaw_and_blur(class_name, yaw_deg, blur):
    """Good runs are as blurred as 0.016, bad ones as 0.03 (benchmarks/results/yardstick.md)."""
    truth = renderer_of_truth(spec_of(class_name))
    for kind in ("two fronts, 180 apart", "two fronts, 90 apart"):
        scene = at_yaw(degraded(KINDS[kind].of(truth), blur), yaw_deg)
        found = fronts_found(scene, class_name)
        assert found.count == 2 and found.share > 0.4 and not found.clean
    right = fronts_found(at_yaw(degraded(truth, blur), yaw_deg), class_name)
    assert right.count == 1 and right.clean


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.fronts is not None])
def test_every_kind_of_scene_has_its_number_of_fronts(kind):
    found = fronts_found(KINDS[kind].of(renderer_of_truth(spec_of("cat"))), "cat")
    assert found.count == KINDS[kind].fronts and found.clean == bool(KINDS[kind].right)


def test_fronts_are_counted_around_the_circle():
    """Arcs of 72 azimuths: over the seam, with small gaps, all round, none."""
    away = np.full(72, 180)

    def count(*arcs):
        assigned = away.copy()
        for first, last in arcs:
            assigned[np.arange(first, last) % 72] = 0
        return fronts.fronts_of(assigned).count

    assert count((70, 76)) == count((10, 14)) == count((0, 72)) == 1 and count() == 0
    assert count((10, 14), (16, 20)) == count((69, 71), (73, 76)) == 1
    assert count((10, 14), (18, 22)) == count((68, 70), (74, 76)) == 2


# --- scores -----------------------------------------------------------------------------------------------------------


def test_blur_costs_detail_more_than_psnr_shows(coarse):
    truth = renderer_of_truth(spec_of("mug"))
    sharp, soft, smear = (score(degraded(truth, blur), "mug") for blur in (0.0, 0.015, 0.06))
    assert sharp["detail"] > soft["detail"] > smear["detail"] and smear["psnr"] > 17


def test_a_white_page_scores_nothing_and_is_not_clean():
    def white(views, size_px):
        return np.ones((len(views), 3, size_px, size_px), np.float32), np.zeros((len(views), size_px, size_px))

    scores = score(white, "house")
    assert scores["iou"] == 0 and scores["detail"] == 0 and not scores["clean"] and scores["psnr"] < 12


def test_objects_that_look_alike_all_round_have_no_fronts_and_scores_are_plain_values(coarse):
    scores = score(renderer_of_truth(spec_of("cone")), "cone")
    assert scores["clean"] is None and scores["fronts"] is None and scores["front_share"] is None
    assert json.loads(json.dumps(scores)) == scores


def test_images_of_the_truth_from_both_sides_are_mirror_images_and_those_of_the_ray_caster():
    from toy.compose import compose
    from toy.raycast import render_gbuffers

    spec, views = spec_of("car"), [View(70, azimuth, RADIUS, FOV_RAD) for azimuth in (40.0, 320.0, -40.0, 200.0)]
    images, coverages = renderer_of_truth(spec)(views, 32)
    np.testing.assert_array_equal(images[0], images[1][..., ::-1])
    np.testing.assert_array_equal(images[1], images[2])
    direct = render_gbuffers("car", views, 32, supersample=3)
    expected = compose(direct, spec.rgb_a(), spec.rgb_b(), (1, 1, 1))
    assert np.abs(images - expected).mean() < 1e-3 and coverages.shape == (4, 32, 32)


def test_ssim_of_a_known_pair():
    """Two constant images: SSIM is the luminance term alone, (2ab + c1)/(a^2 + b^2 + c1)."""
    a, b = np.full((3, 32, 32), 0.4), np.full((3, 32, 32), 0.8)
    assert ssim(a, b) == pytest.approx((2 * 0.32 + 1e-4) / (0.16 + 0.64 + 1e-4))
    assert psnr(a, b) == pytest.approx(-20 * np.log10(0.4))
