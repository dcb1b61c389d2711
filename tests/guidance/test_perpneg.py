# SPDX-License-Identifier: Apache-2.0
"""Perp-Neg: upstream's weights by azimuth, and the laws of the perpendicular part."""

import json

import pytest
import torch

from guidance.perpneg_utils import perp_neg_direction, perpendicular_component, view_weights
from tests.drawn import Draws


def test_weights_and_texts_by_azimuth_match_upstream(golden_dir):
    rows = json.loads((golden_dir / "perpneg_text.json").read_text())["rows"]
    assert len(rows) > 70
    for azimuth_deg, first_weight, *expected in rows:
        position, ((text_1, weight_1), (text_2, weight_2)) = view_weights(azimuth_deg, -2.0, 2.0, 10.0)
        assert first_weight == 1.0
        assert [weight_1, weight_2, position, text_1, text_2] == pytest.approx(expected, abs=1e-6)


def test_any_turn_gives_the_same_view():
    assert view_weights(200.0, -2.0, 2.0, 10.0) == view_weights(-160.0, -2.0, 2.0, 10.0)
    assert view_weights(370.0, -2.0, 2.0, 10.0) == view_weights(10.0, -2.0, 2.0, 10.0)


def test_perpendicular_part_is_perpendicular_per_sample():
    x, y = Draws(0, torch.float64).normal(2, 3, 4, 5, 5)
    part = perpendicular_component(x, y)
    assert (part * y).sum((1, 2, 3)).abs().max() < 1e-12
    assert perpendicular_component(2.5 * y, y).abs().max() < 1e-12
    torch.testing.assert_close(perpendicular_component(part, y), part)


def test_perpendicular_to_nothing_is_everything():
    x = Draws(0).normal(1, 4, 2, 2)
    assert torch.equal(perpendicular_component(x, torch.zeros_like(x)), x)


def test_direction_without_effective_negatives_is_the_positive():
    positive, negative = Draws(1).normal(2, 2, 4, 3, 3)
    assert torch.equal(perp_neg_direction(positive, []), positive)
    assert torch.equal(perp_neg_direction(positive, [(negative, torch.tensor([9e-5, -9e-5]))]), positive)
    assert torch.equal(perp_neg_direction(positive, [(3 * positive, torch.tensor([0.0, 0.0]))]), positive)


def test_negatives_add_their_weighted_perpendicular_parts():
    positive, first, second = Draws(2).normal(3, 2, 4, 3, 3)
    weights = torch.tensor([-2.0, -0.5]), torch.tensor([1.0, 0.0])
    direction = perp_neg_direction(positive, [(first, weights[0]), (second, weights[1])])
    for view in range(2):
        pick = slice(view, view + 1)
        expected = positive[pick] + weights[0][view] * perpendicular_component(first[pick], positive[pick])
        expected = expected + weights[1][view] * perpendicular_component(second[pick], positive[pick])
        torch.testing.assert_close(direction[pick], expected)
