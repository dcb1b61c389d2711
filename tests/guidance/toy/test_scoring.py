# SPDX-License-Identifier: Apache-2.0
"""The yardstick itself: perfect, blurred, wrong and many-faced objects must be told apart."""

import cv2
import numpy as np
import pytest

from guidance.toy import scoring
from guidance.toy.captions import DEFAULT_COLOURS, Spec
from guidance.toy.objects import ONE_SIDED

RADIUS, FOV_RAD, SIZE_PX = 3.5, 0.40, 64


def truth_of(class_name):
    spec = Spec(class_name, *DEFAULT_COLOURS[class_name])
    return spec, *scoring.true_pictures(spec, RADIUS, FOV_RAD, SIZE_PX)


def score(pictures, coverages, spec):
    return scoring.score_pictures(pictures, coverages, spec, RADIUS, FOV_RAD)


def blurred(pictures, std_px):
    return np.stack([np.moveaxis(cv2.GaussianBlur(np.moveaxis(p, 0, -1), (0, 0), std_px), -1, 0) for p in pictures])


@pytest.mark.parametrize("class_name", ONE_SIDED)
def test_the_truth_has_one_face_and_perfect_scores(class_name):
    spec, pictures, coverages = truth_of(class_name)
    scores = score(pictures, coverages, spec)
    assert scores["psnr"] == 100 and scores["ssim"] == pytest.approx(1) and scores["iou"] == 1
    assert scores["detail"] == pytest.approx(1, abs=1e-6) and scores["face"] == pytest.approx(1, abs=0.05)
    assert scores["janus_count"] == 1
    assert max(scores["face_by_azimuth"][1:]) < scoring.JANUS_THRESHOLD


def test_an_object_with_the_front_on_all_sides_counts_eight_faces():
    spec, pictures, coverages = truth_of("robot")
    fronts = np.concatenate([np.repeat(pictures[k : k + 1], 8, axis=0) for k in (0, 8, 16)])
    scores = score(fronts, coverages, spec)
    assert scores["janus_count"] == 8 and scores["face_margin"] == pytest.approx(0, abs=1e-6)


def test_an_object_turned_away_has_its_face_elsewhere():
    spec, pictures, coverages = truth_of("cat")
    turned = pictures.reshape(3, 8, *pictures.shape[1:])[:, [4, 5, 6, 7, 0, 1, 2, 3]].reshape(pictures.shape)
    scores = score(turned, coverages, spec)
    assert scores["face"] < 0.3 and scores["face_by_azimuth"][4] == pytest.approx(1, abs=0.05)
    upright = score(pictures, coverages, spec)
    assert (scores["turn_deg"], scores["psnr_turned"], upright["turn_deg"]) == (180, 100, 0)
    assert scores["psnr"] < 30 and scores["detail_turned"] == pytest.approx(upright["detail"])
    assert scores["face_margin"] == pytest.approx(upright["face_margin"], abs=0.1) and scores["face_margin"] > 0.5


def test_blur_costs_detail_and_face_more_than_psnr_shows():
    spec, pictures, coverages = truth_of("mug")
    sharp, soft, smear = (score(p, coverages, spec) for p in (pictures, blurred(pictures, 1.0), blurred(pictures, 4.0)))
    assert sharp["detail"] > soft["detail"] > smear["detail"]
    assert soft["face"] > 0.7 and smear["face"] < 0.6


def test_a_white_page_scores_nothing():
    spec, pictures, coverages = truth_of("house")
    scores = score(np.ones_like(pictures), np.zeros_like(coverages), spec)
    assert scores["iou"] == 0 and scores["detail"] == 0 and scores["janus_count"] == 0 and scores["psnr"] < 12


def test_objects_that_look_alike_all_round_have_no_face_score():
    spec, pictures, coverages = truth_of("cone")
    assert score(pictures, coverages, spec)["janus_count"] is None


def test_ssim_of_a_known_pair():
    """Two constant pictures: SSIM is the luminance term alone, (2ab + c1)/(a^2 + b^2 + c1)."""
    a, b = np.full((3, 32, 32), 0.4), np.full((3, 32, 32), 0.8)
    assert scoring.ssim(a, b) == pytest.approx((2 * 0.32 + 1e-4) / (0.16 + 0.64 + 1e-4))
    assert scoring.psnr(a, b) == pytest.approx(-20 * np.log10(0.4))


def test_pictures_of_the_wrong_shape_are_refused():
    spec, pictures, coverages = truth_of("cone")
    with pytest.raises(ValueError, match=r"takes square pictures of shape \(24, 3"):
        score(pictures[:8], coverages[:8], spec)
