# SPDX-License-Identifier: Apache-2.0
"""Eqs. (6), (7) against numbers worked out by hand, the grid's geometry, and the laws of the draw."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import CoGradParams
from cograd.regions import (
    RegionGrid,
    convergence_indicator,
    draw_without_replacement,
    indicators,
    log_probabilities,
    next_log_probabilities,
    uniform,
    with_visit_floor,
)
from scene.dataset_readers import camera_at
from tests.cograd.geometry import distance, index, region_of
from tests.cograd.histories import history_of
from tests.drawn import Draws

EPS_STAB = 1e-6


def _indicator(n: int, mean: float, last: float) -> float:
    return float(convergence_indicator(*(np.array([x]) for x in (n, mean, last)), EPS_STAB)[0])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draw(log_p: np.ndarray, views: int, generator: torch.Generator) -> list[int]:
    return draw_without_replacement(log_p, uniform(generator, views).tolist()).tolist()


# --- Eq. (6)


@pytest.mark.parametrize(
    ("history", "r"),
    [
        ([], 1.0),
        ([7.0], 1.0),
        ([2.0, 2.0], 4.0 / (4.0 + EPS_STAB)),
        ([2.0, 4.0], (2.0 * 1 + 4.0) / (2.0 * 2 + EPS_STAB)),  # rose: 1.5
        ([1.0, 2.0, 6.0, 3.0], (3.0 * 3 + 3.0) / (3.0 * 4 + EPS_STAB)),  # mean of the first three is 3
        ([4.0, 4.0, 0.0], 8.0 / (12.0 + EPS_STAB)),
        ([0.0, 0.0], 0.0),  # 0 / eps_stab
        ([0.0, 3e-6], 3e-6 / EPS_STAB),
    ],
)
def test_indicator_of_hand_computed_histories(history, r) -> None:
    found = indicators(history_of({2: history}), CoGradParams())
    assert found[2] == pytest.approx(r, rel=1e-12) and found[[0, 1, 3]].tolist() == [1.0, 1.0, 1.0]


def test_first_visits_count_as_one_whatever_the_loss() -> None:
    assert _indicator(0, 5.0, 9.0) == _indicator(1, 5.0, 9.0) == 1.0
    assert _indicator(2, 5.0, 9.0) == pytest.approx(14.0 / (10.0 + EPS_STAB), rel=1e-12)


@pytest.mark.parametrize("mean, last", [(1e308, 1e308), (0.0, 1.7e308), (1.7e308, 0.0), (1e-300, 1e308), (1e200, 1e-200)])
def test_huge_losses_overflow_neither_indicator_nor_probability(mean, last) -> None:
    r = np.array([1.0, _indicator(1000, mean, last), 1.0, 0.9])
    p = np.exp(log_probabilities(r, tau=1e-6))
    assert np.isfinite(r).all() and np.isfinite(p).all() and p.sum() == pytest.approx(1.0, abs=1e-12)
    assert len(set(_draw(log_probabilities(r, 0.1), 4, _generator(0)))) == 4


# --- Eq. (7)


def test_softmax_of_hand_computed_indicators() -> None:
    r = np.array([1.0, 1.1, 0.8])
    weights = [math.exp(10.0), math.exp(11.0), math.exp(8.0)]
    assert np.exp(log_probabilities(r, tau=0.1)).tolist() == pytest.approx([w / sum(weights) for w in weights], rel=1e-12)
    assert np.exp(log_probabilities(np.ones(5), 0.1)).tolist() == pytest.approx([0.2] * 5, rel=1e-14)


def test_softmax_keeps_odds_that_a_double_cannot_hold() -> None:
    log_p = log_probabilities(np.array([500.0, 1.2, 0.8]), tau=0.1)
    assert np.exp(log_p).tolist() == [1.0, 0.0, 0.0]
    assert float(log_p[1] - log_p[2]) == pytest.approx(4.0, rel=1e-9)
    second = [_draw(log_p, 2, _generator(seed))[1] for seed in range(300)]
    assert second.count(1) / 300 == pytest.approx(math.exp(4) / (1 + math.exp(4)), abs=0.03)  # .982, deviation .008


def test_temperature_sharpens() -> None:
    r = np.array([1.0, 1.2])
    cold, warm, hot = (float(np.exp(log_probabilities(r, tau))[1]) for tau in (0.01, 0.1, 10.0))
    assert cold > 0.999 > warm > 0.88 > hot > 0.5


def test_visit_floor_is_a_mixture_with_the_uniform_law() -> None:
    log_p = log_probabilities(np.array([3.0, 1.0, 1.0, 1.0]), tau=0.1)
    p, mixed = np.exp(log_p), np.exp(with_visit_floor(log_p, 0.2))
    assert mixed.tolist() == pytest.approx((0.8 * p + 0.05).tolist(), rel=1e-12)
    assert with_visit_floor(log_p, 0.0) is log_p
    assert np.exp(with_visit_floor(log_p, 1.0)).tolist() == pytest.approx([0.25] * 4)


def test_without_regions_the_draw_is_uniform() -> None:
    history = history_of({0: [1.0, 9.0], 1: [9.0, 1.0]})
    assert np.exp(next_log_probabilities(history, CoGradParams(use_regions=False))).tolist() == pytest.approx([0.25] * 4)
    assert np.ptp(next_log_probabilities(history, CoGradParams())) > 1


# --- the draw


def test_one_view_is_drawn_by_p() -> None:
    """B = 1, the paper's text: 4000 draws against P; a frequency deviates by .008 at most (one standard deviation)."""
    history, generator = history_of({0: [1.0, 1.2], 1: [1.0, 0.9], 2: [1.0, 1.0]}), _generator(3)
    log_p = next_log_probabilities(history, CoGradParams())
    drawn = [_draw(log_p, 1, generator)[0] for _ in range(4000)]
    assert (np.bincount(drawn, minlength=4) / 4000).tolist() == pytest.approx(np.exp(log_p).tolist(), abs=0.03)


def test_pairs_are_drawn_without_replacement_by_p() -> None:
    """P(first i, then j) = p_i p_j / (1 - p_i), over 6000 draws."""
    p = np.array([0.5, 0.3, 0.2])
    generator, counts = _generator(5), np.zeros((3, 3))
    for _ in range(6000):
        i, j = _draw(np.log(p), 2, generator)
        counts[i, j] += 1
    expected = np.array([[0.0 if i == j else p[i] * p[j] / (1 - p[i]) for j in range(3)] for i in range(3)])
    assert np.abs(counts / 6000 - expected).max() < 0.025  # 4 standard deviations
    assert counts.diagonal().sum() == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(0, 10_000), st.data())
def test_regions_of_a_step_are_different_and_all_may_be_drawn(r, seed, data) -> None:
    size = data.draw(st.integers(1, len(r)))
    drawn = _draw(log_probabilities(np.array(r), 0.1), size, _generator(seed))
    assert len(set(drawn)) == size and all(0 <= i < len(r) for i in drawn)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(0, 10_000), st.data())
def test_every_second_view_may_be_opposite_the_one_before(elevations, half, distances, seed, data) -> None:
    """Half way round, at the same elevation and distance; all regions of a step are different still."""
    grid = RegionGrid((elevations, 2 * half, distances))
    views = data.draw(st.integers(1, len(grid)))
    u = torch.rand(views, generator=_generator(seed)).tolist()
    drawn = draw_without_replacement(np.zeros(len(grid)), u, grid.opposites()).tolist()
    assert len(set(drawn)) == views and drawn[0] == draw_without_replacement(np.zeros(len(grid)), u).tolist()[0]
    for first, second in zip(drawn[::2], drawn[1::2]):
        a, b = grid.cell(first), grid.cell(second)
        assert (a.theta_deg, a.radius) == (b.theta_deg, b.radius)
        assert abs(a.phi_deg[0] - b.phi_deg[0]) == pytest.approx(180)


def test_an_odd_number_of_sectors_has_no_opposites() -> None:
    with pytest.raises(ValueError, match="3 sectors of azimuth; expected an even number"):
        RegionGrid((1, 3, 1)).opposites()


def test_one_region_is_always_drawn() -> None:
    log_p = next_log_probabilities(history_of({0: [1.0, 1e300, 0.0]}, count=1), CoGradParams())
    assert _draw(log_p, 1, _generator(0)) == [0] and log_p.tolist() == [0.0]


def test_more_views_than_regions_are_refused() -> None:
    for views in (5, 0):
        with pytest.raises(ValueError, match=f"views per step: {views}; expected 1 to 4, the number of regions"):
            _draw(np.zeros(4), views, _generator(0))


# --- the grid


def test_the_papers_grid() -> None:
    grid = RegionGrid.from_params(CoGradParams())
    assert len(grid) == 180 and grid.levels == (3, 30, 2)
    first, last = grid.cell(0), grid.cell(179)
    assert (first.theta_deg, first.phi_deg, first.radius) == ((90.0, 120.0), (0.0, 12.0), (1.5, 1.75))
    assert (last.theta_deg, last.phi_deg, last.radius) == ((30.0, 60.0), (348.0, 360.0), (1.75, 2.0))


def test_distance_counts_level_steps_and_wraps_around() -> None:
    grid = RegionGrid()

    def d(a, b):
        return int(distance(grid, index(grid, torch.tensor(a)), index(grid, torch.tensor(b))))

    assert d((1, 4, 0), (1, 4, 0)) == 0
    assert d((0, 0, 0), (0, 29, 0)) == d((0, 29, 0), (0, 0, 0)) == 1
    assert d((0, 28, 0), (0, 3, 0)) == 5 and d((0, 0, 0), (0, 15, 0)) == 15 and d((0, 0, 0), (0, 16, 0)) == 14
    assert d((0, 2, 1), (2, 0, 0)) == 5
    assert d((0, 0, 0), (2, 0, 0)) == 2 and d((0, 0, 0), (0, 0, 1)) == 1  # neither elevation nor distance wraps


def test_neighbours_are_the_region_and_its_faces() -> None:
    grid = RegionGrid()

    def near(e, a, d):
        return {tuple(grid.coordinates(torch.tensor(j)).tolist()): s for j, s in grid.neighbours[int(index(grid, torch.tensor([e, a, d])))]}

    assert near(1, 0, 0) == {(1, 0, 0): 0, (0, 0, 0): 1, (2, 0, 0): 1, (1, 1, 0): 1, (1, 29, 0): 1, (1, 0, 1): 1}
    assert near(0, 29, 1) == {(0, 29, 1): 0, (1, 29, 1): 1, (0, 28, 1): 1, (0, 0, 1): 1, (0, 29, 0): 1}


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3)), st.integers(1, 4))
def test_neighbour_tables_are_all_regions_within_the_limit(levels, limit) -> None:
    grid = RegionGrid(levels, neighbour_distance=limit)
    everyone = torch.arange(len(grid))
    for i in range(len(grid)):
        d = distance(grid, torch.tensor(i), everyone)
        assert torch.equal(d, distance(grid, everyone, torch.tensor(i)))
        found = grid.neighbours[i]
        assert found[0] == (i, 0) and [s for _, s in found] == sorted(s for _, s in found)
        assert sorted(found) == [(j, int(d[j])) for j in everyone.tolist() if d[j] < limit]


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(1, 9), st.integers(1, 31), st.integers(1, 5)), st.integers(0, 2**31), st.floats(0.5, 40))
def test_a_pose_lies_in_the_cell_it_was_drawn_for(levels, seed, spread) -> None:
    grid = RegionGrid(levels, (-90.0 + spread, 77.3), (0.7, 0.7 + spread))
    regions = Draws(seed).integers(0, len(grid), 5)
    poses = grid.sample_poses(regions, _generator(seed))
    for region, radius, theta_deg, phi_deg in zip(regions.tolist(), poses.radius, poses.theta_deg, poses.phi_deg):
        cell = grid.cell(region)
        for value, (low, high) in ((theta_deg, cell.theta_deg), (phi_deg, cell.phi_deg), (radius, cell.radius)):
            assert low < value < high
        assert region_of(grid, float(theta_deg), float(phi_deg) + 360 * (seed % 3 - 1), float(radius)) == region


def test_poses_are_uniform_in_their_cell() -> None:
    grid = RegionGrid()
    poses, cell = grid.sample_poses(torch.full((20_000,), 64), _generator(0)), grid.cell(64)
    for values, (low, high) in ((poses.theta_deg, cell.theta_deg), (poses.phi_deg, cell.phi_deg), (poses.radius, cell.radius)):
        share = (values - low) / (high - low)
        assert share.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.015)


def test_permuting_the_views_permutes_the_poses(monkeypatch) -> None:
    grid, order, regions = RegionGrid(), torch.tensor([2, 0, 3, 1]), torch.tensor([5, 100, 179, 33])
    u = [Draws(0).uniform(4, 3)]
    u.append(u[0][order])
    monkeypatch.setattr("cograd.regions.uniform", lambda *_: u.pop(0))
    straight, turned = (grid.sample_poses(seen, _generator(0)) for seen in (regions, regions[order]))
    assert torch.equal(straight.theta_deg[order], turned.theta_deg) and torch.equal(straight.radius[order], turned.radius)


def test_a_camera_stands_where_the_pose_says() -> None:
    """Elevation 60 of azimuth 0 at distance 2 is above and in front (+y), by the scene's own camera law."""
    grid = RegionGrid()
    region = region_of(grid, 30.0, 0.0, 2.0)
    assert grid.coordinates(torch.tensor(region)).tolist() == [2, 0, 1]
    camera = camera_at(2.0, 30.0, 0.0, 0.5, 8, 8)
    assert camera.camera_center.tolist() == pytest.approx([0.0, 1.0, math.sqrt(3)], abs=1e-5)


@pytest.mark.parametrize("levels, distances, told", [((0, 30, 2), (1.5, 2), "levels of elevation: 0, each"), ((3, 30, 2), (2, 2), "levels of distance: 2, each 0 wide"), ((3, 30, 1), (2, 1), "levels of distance: 1, each -1 wide")])  # fmt: skip
def test_impossible_grids_are_refused(levels, distances, told) -> None:
    with pytest.raises(ValueError, match=told):
        RegionGrid(levels, distance_range=distances)


def test_one_level_may_have_no_width() -> None:
    grid = RegionGrid((1, 4, 1), (15.0, 15.0), (2.0, 2.0))
    assert region_of(grid, 75.0, 100.0, 2.0) == 1
    poses = grid.sample_poses(torch.tensor([3]), _generator(0))
    assert (float(poses.theta_deg), float(poses.radius)) == (75.0, 2.0)
