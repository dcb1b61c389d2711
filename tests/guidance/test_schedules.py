# SPDX-License-Identifier: Apache-2.0
"""Schedules of timesteps: where they begin and end, what they pass, and that every one works with every law."""

import itertools

import numpy as np
import pytest
import torch

from arguments import GuidanceParams
from arguments.load import load_config
from distillation import LAWS
from guidance.schedules import SCHEDULES, draw_index, dreamtime_index, dreamtime_weights, window
from guidance.sd_step import index_range
from guidance.timestep_checks import schedule_notices
from tests.gaussian_prior import ABAR

PROGRESS = [k / 100 for k in range(101)]
DETERMINISTIC = ("linear", "sqrt", "dreamtime", "log_snr")


def at(schedule, progress, rate=0.0, **changes):
    return window(GuidanceParams(text="x", t_schedule=schedule, **changes), ABAR, progress, rate)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t_range", [(0.02, 0.98), (0.3, 0.98), (0.0, 1.0), (0.4, 0.41)])
def test_a_window_stays_within_the_schedule_and_its_range(schedule, t_range):
    for progress, rate in itertools.product(PROGRESS, (0.0, 0.4, 1.0)):
        low, high = at(schedule, progress, rate, t_range=t_range, t_range_start=t_range, max_t_range=1.0)
        assert 0 <= low <= high <= 999 and low >= round(t_range[0] * 1000)
        if schedule != "warm_up":
            assert high <= round(t_range[1] * 1000)


@pytest.mark.parametrize("schedule", DETERMINISTIC)
@pytest.mark.parametrize("t_range", [(0.02, 0.98), (0.3, 0.98), (0.1, 0.7)])
def test_a_deterministic_schedule_falls_from_one_end_to_the_other(schedule, t_range):
    found = [at(schedule, progress, t_range=t_range) for progress in PROGRESS]
    indices = [low for low, high in found if low == high]
    assert len(indices) == len(found) and indices == sorted(indices, reverse=True)
    first, last = indices[0], indices[-1]
    assert abs(first - 1000 * t_range[1]) <= 1 and (schedule == "dreamtime" or last == 1000 * t_range[0])
    assert last <= 1000 * t_range[0] + 1


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--t_schedule", "dreamtime"], True),
        (["--distillation", "sds", "--t_schedule", "dreamtime", "--weighting", "interval"], True),
        (["--t_schedule", "dreamtime", "--weighting", "uniform"], False),
        (["--t_schedule", "dreamtime", "--CoGradParams.enabled", "true"], False),
        (["--t_schedule", "sqrt"], False),
    ],
)
def test_a_weight_that_dreamtime_would_count_twice_is_reported(words, reported):
    notices = schedule_notices(load_config(["--text", "x", *words]))
    assert [notice.endswith("use --weighting uniform") for notice in notices] == [True] * reported


def test_hifas_square_root():
    """0.98 - 0.68 sqrt(0.3) = 0.6075 when 30 % is done."""
    assert at("sqrt", 0.3, t_range=(0.3, 0.98)) == (608, 608)
    assert at("sqrt", 0.25, t_range=(0.3, 0.98)) == at("linear", 0.5, t_range=(0.3, 0.98)) == (640, 640)


def test_dreamtime_on_stable_diffusions_schedule():
    """At 0, 25, 50, 75 and 99 % of the run, computed apart from this code: W_d W_p, and W_p alone."""
    weights, density = dreamtime_weights(ABAR), ((1 - ABAR) / ABAR).sqrt().double().numpy()
    for law, wanted in ((weights, [999, 936, 850, 711, 380]), (weights / density, [999, 834, 681, 528, 303])):
        assert [dreamtime_index(law, progress) for progress in (0.0, 0.25, 0.5, 0.75, 0.99)] == wanted
    assert at("dreamtime", 0.5, t_range=(0.0, 1.0)) == (850, 850)


def test_dreamtimes_law():
    """Uniform weights give a straight line; else the indices visited are distributed as the weights."""
    assert [dreamtime_index(np.ones(1000), p) for p in (0.0, 0.25, 0.5)] == [999, 750, 500]
    weights = dreamtime_weights(ABAR)
    visited = np.array([dreamtime_index(weights, k / 20000) for k in range(20000)])
    share = np.histogram(visited, 10, (0, 1000))[0] / 20000
    assert np.abs(share - weights.reshape(10, 100).sum(1) / weights.sum()).max() < 2e-3


def test_linear_log_snr_is_dreamtime_with_its_slope_as_weight():
    table = (ABAR.log() - (1 - ABAR).log()).numpy()
    weights = -np.gradient(table)
    for progress in (0.1, 0.5, 0.9):
        (index, _), low, high = at("log_snr", progress, t_range=(0.02, 0.98)), 20, 980
        assert abs(index - low - dreamtime_index(weights[low : high + 1], progress)) <= 1


def test_windows_that_move_and_that_switch():
    ends = {"t_range_start": (0.5, 0.98), "t_range": (0.02, 0.5)}
    assert [at("moving", p, **ends) for p in (0.0, 0.5, 1.0)] == [(500, 980), (260, 740), (20, 500)]
    assert [at("step", p, t_switch=0.2, **ends) for p in (0.0, 0.199, 0.2, 1.0)] == [(500, 980)] * 2 + [(20, 500)] * 2
    assert at("uniform", 0.7, **ends) == (20, 500)


@pytest.mark.parametrize("rate", [0.0, 0.37, 1.0])
def test_warm_up_is_lucid_dreamers_range(rate):
    low, beyond = index_range(1000, (0.02, 0.5), 0.98, rate)
    assert at("warm_up", 0.3, rate) == (low, beyond - 1)


def test_both_ends_of_a_window_are_drawn_and_all_alike():
    params = GuidanceParams(text="x", t_schedule="uniform", t_range=(0.02, 0.024))
    generator = torch.Generator().manual_seed(0)
    drawn = [int(draw_index(params, ABAR, 0.0, 0.0, generator)) for _ in range(500)]
    assert set(drawn) == {20, 21, 22, 23, 24} and min(drawn.count(k) for k in range(20, 25)) > 60


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_goes_with_every_law(law, schedule):
    """A law's preset gives way to the flag, and the window is the flag's."""
    words = ["--text", "x", "--guidance", "ideal", "--allow_unknown_words", "--distillation", law, "--t_schedule", schedule]
    params = load_config([*words, "--t_range", "0.2", "0.4", "--t_range_start", "0.2", "0.4"]).guidance
    assert params.t_schedule == schedule and params.t_range == (0.2, 0.4)
    low, high = window(params, ABAR, 0.5, 0.0)
    assert 200 <= low <= high <= 400
