# SPDX-License-Identifier: Apache-2.0
"""The schedule: indices and timesteps, DDIM steps, intervals, and the paths of the inversion."""

import json
from itertools import pairwise

import pytest
import torch

from guidance import sd_step
from tests.drawn import Draws

ALPHAS = sd_step.scaled_linear_alphas()


def test_schedule_is_the_one_of_tiny_sd(golden_dir):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler.from_pretrained(golden_dir / "tiny-sd" / "scheduler")
    torch.testing.assert_close(ALPHAS.float(), scheduler.alphas_cumprod, rtol=2e-6, atol=0)


def test_index_is_not_timestep():
    ind_t = torch.arange(999)
    t = sd_step.timesteps_of_indices(ind_t, 1000, 1000, 1)
    assert torch.equal(t, ind_t + 1)
    assert torch.equal(sd_step.indices_of_timesteps(t, 1000, 1000, 1), ind_t)
    assert sd_step.timesteps_of_indices(torch.tensor([999]), 1000, 1000, 1).item() == 999  # never past the table


def test_fewer_inference_steps_stride_over_the_training_ones():
    t = sd_step.timesteps_of_indices(torch.tensor([0, 1, 49]), 50, 1000, 1)
    assert t.tolist() == [1, 21, 981]
    assert sd_step.indices_of_timesteps(t, 50, 1000, 1).tolist() == [0, 1, 49]


def test_ddim_step_there_and_back_with_one_prediction_is_the_identity():
    draws = Draws(0, torch.float64)
    x, eps = draws.normal(2, 2, 3, 4, 4)
    low, high = ALPHAS[torch.tensor([10, 300])], ALPHAS[torch.tensor([200, 900])]
    there = sd_step.ddim_step(x, eps, low, high)
    torch.testing.assert_close(sd_step.ddim_step(there, eps, high, low), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(sd_step.ddim_step(x, eps, low, low), x, rtol=0, atol=1e-12)


def test_ddim_step_of_the_true_noise_lands_on_the_noised_image():
    draws = Draws(1, torch.float64)
    x_0, noise = draws.normal(2, 2, 3, 4, 4)
    low, high = ALPHAS[torch.tensor([50, 400])], ALPHAS[torch.tensor([500, 950])]
    moved = sd_step.ddim_step(sd_step.add_noise(x_0, noise, low), noise, low, high)
    torch.testing.assert_close(moved, sd_step.add_noise(x_0, noise, high), rtol=0, atol=1e-12)


def test_eta_shortens_the_noise_part_by_the_stated_amount():
    x, eps = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    a_from, a_to = ALPHAS[[200]], ALPHAS[[400]]
    variance = ((1 - a_to) / (1 - a_from) * (1 - a_from / a_to)).abs()
    for eta, spread in ((0.01, 0.01 * variance), (1.0, (1 - a_to) / 2)):  # the second is capped
        x0_hat = -((1 - a_from) / a_from).sqrt()
        expected = a_to.sqrt() * x0_hat + (1 - a_to - spread).sqrt()
        torch.testing.assert_close(sd_step.ddim_step(x, eps, a_from, a_to, eta).flatten(), expected, rtol=1e-12, atol=0)


def test_only_the_mathematical_zero_by_zero_is_silenced():
    one = torch.ones(1, dtype=torch.float64)
    x, eps = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    assert sd_step.ddim_step(x, eps, one, one, eta=0.5).item() == 1  # variance is 0/0 at a noiseless start
    assert sd_step.ddim_step(x, eps * float("nan"), ALPHAS[[5]], ALPHAS[[9]]).isnan().all()


def test_every_kind_of_prediction_becomes_noise():
    draws = Draws(2, torch.float64)
    x_0, noise = draws.normal(2, 1, 4, 3, 3)
    abar = ALPHAS[[321]]
    outputs = {"epsilon": noise, "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * x_0, "sample": x_0}
    assert outputs.keys() == set(sd_step.PREDICTION_TYPES)
    for kind, output in outputs.items():
        eps = sd_step.eps_of(output, kind, sd_step.add_noise(x_0, noise, abar), abar)
        torch.testing.assert_close(eps, noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rate", "plain", "perp_neg"), [(0.0, 80, 80), (1.0, 100, 100), (0.95, 99, 99), (0.3, 86, 86), (0.31, 86, 87)]
)
def test_the_two_roundings_of_the_interval(rate, plain, perp_neg):
    assert sd_step.annealed_delta(80, 100, rate, round_up=False) == plain
    assert sd_step.annealed_delta(80, 100, rate, round_up=True) == perp_neg


def test_index_range_shrinks_during_warm_up():
    assert sd_step.index_range(1000, (0.02, 0.5), 0.98, 1.0) == (20, 980)
    assert sd_step.index_range(1000, (0.02, 0.5), 0.98, 0.0) == (20, 500)


@pytest.mark.parametrize("name", ["plain", "perpneg_sh1"])
def test_paths_are_those_of_upstreams_traces(golden_dir, name):
    """The network calls of upstream's 30 iterations follow from each iteration's last timestep alone."""
    trace = json.loads((golden_dir / "end_to_end" / f"trace_{name}.json").read_text())["trace"]
    assert len(trace) == 30
    for step in trace:
        delta = sd_step.annealed_delta(80, 100, step["warm_up_rate"], round_up=name != "plain")
        path = sd_step.inversion_path(step["unet_timesteps"][-1] - 1, delta, xs_delta_t=200, xs_inv_steps=5)
        assert [index + 1 for index in path] == step["unet_timesteps"]


def test_path_starts_where_its_steps_can_reach_the_end():
    assert sd_step.inversion_path(700, 25, xs_delta_t=100, xs_inv_steps=3) == [375, 475, 575, 675, 700]
    assert sd_step.inversion_path(60, 80, xs_delta_t=200, xs_inv_steps=5) == [0, 0, 60]


def test_rounds_hold_every_step_of_every_view_once():
    paths = [sd_step.inversion_path(ind_t, 80, 200, 5) for ind_t in (900, 100, 500, 30)]
    rounds = sd_step.inversion_rounds(paths)
    assert len(rounds) == max(len(path) for path in paths) - 1
    for row, path in enumerate(paths):
        taken = [(r.ind_from[r.rows.index(row)], r.ind_to[r.rows.index(row)]) for r in rounds if row in r.rows]
        assert taken == list(pairwise(path))
