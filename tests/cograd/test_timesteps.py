# SPDX-License-Identifier: Apache-2.0
"""The schedule against tables, Eq. (8) against histories worked out by hand, and where t may lie."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import CoGradParams
from cograd.history import RegionHistory
from cograd.regions import RegionGrid
from cograd.timesteps import (
    LocalUpdate,
    LossSignal,
    TimestepController,
    global_timestep,
    jittered,
    local_update,
    log_snr,
    neighbourhood_part,
    schedule_progress,
)
from guidance.sd_step import scaled_linear_alphas
from tests.drawn import Draws

ALPHAS = scaled_linear_alphas()  # Stable Diffusion's, [1000]
TABLE = log_snr(ALPHAS)
PARAMS = CoGradParams()
C = (0.5, 0.3, 0.2)


def _controller(t_valid: tuple[int, int] | None = None, **settings) -> TimestepController:
    params = dataclasses.replace(PARAMS, **settings)
    grid = RegionGrid.from_params(params)
    return TimestepController(grid, RegionHistory(len(grid), params.ema_factor), ALPHAS, params, t_valid)


def _observe(controller: TimestepController, region: int, loss: float) -> LocalUpdate | None:
    differences = controller.history.differences(region, loss)
    controller.history.add(region, loss)
    return controller.update(region, differences)


# --- global schedule


def test_ends_of_the_schedule_are_the_tables() -> None:
    assert global_timestep(0.0, TABLE) == 999.0  # t = 1000, the last entry
    assert global_timestep(1.0, TABLE) == 1.0
    abar = ALPHAS[[999, 1]]
    assert TABLE[[999, 1]].tolist() == pytest.approx((abar / (1 - abar)).log().tolist(), rel=1e-12)


@pytest.mark.parametrize("s", [0.05, 0.2, 0.35, 0.5, 0.8, 0.95])
def test_t_global_has_the_interpolated_log_snr(s) -> None:
    t = global_timestep(s, TABLE)
    low = math.floor(t)
    there = float(TABLE[low] + (t - low) * (TABLE[low + 1] - TABLE[low]))
    assert there == pytest.approx((1 - s) * float(TABLE[999]) + s * float(TABLE[1]), abs=1e-10)


def test_t_global_falls_all_the_way() -> None:
    t = [global_timestep(k / 500, TABLE) for k in range(501)]
    assert all(later < earlier for earlier, later in itertools.pairwise(t))


@pytest.mark.parametrize("t", [1, 2, 250, 777, 998, 999])
def test_the_inverse_meets_the_entries_of_the_table(t) -> None:
    s = float((TABLE[t] - TABLE[999]) / (TABLE[1] - TABLE[999]))
    assert global_timestep(s, TABLE) == pytest.approx(t, abs=1e-8)


@pytest.mark.parametrize(
    ("prog", "interval", "clamped"),
    [(0.0, 0.2, 0.0), (0.1, 0.26, 0.0), (0.2, 0.32, 0.0), (0.5, 0.5, 0.5), (0.65, 0.59, 0.75), (0.8, 0.68, 1.0), (1.0, 0.8, 1.0)],
)
def test_both_readings_of_prog(prog, interval, clamped) -> None:
    assert schedule_progress(prog, "interval", (0.2, 0.8)) == pytest.approx(interval, abs=1e-12)
    assert schedule_progress(prog, "clamp", (0.2, 0.8)) == pytest.approx(clamped, abs=1e-12)


def test_clamp_to_a_point_is_a_step() -> None:
    assert [schedule_progress(prog, "clamp", (0.5, 0.5)) for prog in (0.4, 0.5, 0.6)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("table", [torch.tensor([0.9, 0.9, 0.1]), torch.tensor([0.9, 0.5, 0.0]), torch.tensor([1.0, 0.5]), torch.tensor([0.5])])
def test_tables_that_are_no_schedule_are_refused(table) -> None:
    with pytest.raises(ValueError, match=r"alphas_cumprod does not fall strictly within 0\.\.1"):
        log_snr(table)


# --- Eq. (8)


@pytest.mark.parametrize(
    ("differences", "u"),
    [
        ((0.02, 0.0, 0.0), 0.01),
        ((0.02, -0.01, 0.03), 0.01 - 0.003 + 0.006),
        ((-0.04, 0.02, -0.01), -0.02 + 0.006 - 0.002),
        ((1.0, 1.0, 1.0), 0.05),
        ((-1.0, 0.1, 0.1), -0.05),
        ((1e308, math.inf, 1e308), 0.05),
        ((0.0, -math.inf, 1e308), -0.05),
    ],
)
def test_update_is_linear_and_clipped(differences, u) -> None:
    update = local_update(*differences, C, 0.05)
    assert update.u == pytest.approx(u, rel=1e-12)
    assert update.raw == pytest.approx(sum(c * x for c, x in zip(C, differences)), rel=1e-12)


def test_local_state_of_a_hand_computed_history() -> None:
    """Losses .10, .12, .11, .15: no history, then a first difference, then a second one too."""
    controller = _controller()
    updates = [_observe(controller, 7, loss) for loss in (0.10, 0.12, 0.11, 0.15)]
    ema = [0.10, 0.9 * 0.10 + 0.1 * 0.12]
    ema.append(0.9 * ema[1] + 0.1 * 0.11)
    expected = [
        0.0,
        0.5 * 0.02 + 0.2 * (0.12 - ema[0]),
        0.5 * -0.01 + 0.3 * (0.11 - 2 * 0.12 + 0.10) + 0.2 * (0.11 - ema[1]),
        0.5 * 0.04 + 0.3 * (0.15 - 2 * 0.11 + 0.12) + 0.2 * (0.15 - ema[2]),
    ]
    assert [update.u for update in updates] == pytest.approx(expected, abs=1e-15)
    state = 0.0
    for u in expected:
        state = 0.9 * state + u
    assert float(controller.history.t_local[7]) == pytest.approx(state, abs=1e-15)
    assert np.count_nonzero(controller.history.t_local) == 1


def test_a_rising_loss_raises_t_and_the_local_state_is_bounded() -> None:
    controller = _controller()
    for k in range(200):
        _observe(controller, 3, float(k))
    assert float(controller.history.t_local[3]) == pytest.approx(0.05 / (1 - 0.9), abs=1e-6)  # the fixed point of m x + u_max
    base = controller.plan([3], 0.5, [0.5])
    assert float(base.t_local) == pytest.approx(1000 * 0.2 * 0.5, abs=1e-3) and float(base.t_base) > base.t_global
    for k in range(200):
        _observe(controller, 3, 200.0 - k)
    assert float(controller.history.t_local[3]) == pytest.approx(-0.5, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1.7e308), max_size=20))
def test_local_state_stays_finite_and_bounded_whatever_the_losses(losses) -> None:
    controller = _controller(elevation_levels=1, azimuth_levels=1, distance_levels=1)
    for loss in losses:
        assert abs(_observe(controller, 0, loss).u) <= 0.05
    assert abs(controller.history.t_local[0]) <= 0.5 and np.isfinite(controller.history.L_ema[0])


def test_neighbourhood_part_by_hand() -> None:
    """Own .3, faces .1 and -.2, two steps away .4: .2 (.3 + .1 / 2 - .2 / 2), the last is no neighbour."""
    grid = RegionGrid((1, 5, 1))
    t_local = np.array([0.3, 0.1, 0.4, 0.4, -0.2])
    part = [neighbourhood_part(t_local, grid.neighbours[i], 0.2) for i in (0, 2)]
    assert part == pytest.approx([0.2 * (0.3 + 0.05 - 0.1), 0.2 * (0.4 + 0.05 + 0.2)], rel=1e-12)


# --- t


def test_t_base_is_clipped_and_t_is_limited_to_the_scheduler() -> None:
    controller = _controller(prog_range=(0.0, 1.0))
    u = [0.0, 0.5, 1 - 2**-24]
    early = controller.plan([0, 1, 2], 0.0, u)
    assert early.t_global == 999.0 and early.t_base.tolist() == [900.0] * 3 and early.t.tolist() == [800, 900, 999]
    late = controller.plan([0, 1, 2], 1.0, u)
    assert late.t_global == 1.0 and late.t_base.tolist() == [100.0] * 3 and late.t.tolist() == [1, 100, 200]


def test_jitter_is_uniform() -> None:
    u = (torch.arange(2000).double() + 0.5) / 2000
    t = torch.tensor([jittered(500.0, x, 100, (1, 999)) for x in u.tolist()])
    assert t.dtype == torch.int64 and int(t.min()) == 400 and int(t.max()) == 600
    assert all(8 <= count <= 12 for count in torch.bincount(t - 400)[1:-1].tolist())


@settings(deadline=None, max_examples=150)
@given(
    st.floats(0, 1),
    st.sampled_from(["full", "schedule", "random"]),
    st.sampled_from(["interval", "clamp"]),
    st.tuples(st.integers(0, 1200), st.integers(0, 1200)).map(sorted).map(tuple),
    st.integers(0, 500),
    st.tuples(st.integers(0, 999), st.integers(0, 999)).map(sorted).map(tuple),
    st.integers(0, 2**31),
)
def test_t_is_always_valid(progress, mode, reading, t_base_range, t_jitter, t_valid, seed) -> None:
    controller = _controller(t_valid, timestep_mode=mode, prog_reading=reading, t_base_range=t_base_range, t_jitter=t_jitter, azimuth_levels=3)
    rng = np.random.default_rng(seed)
    controller.history.t_local[:] = rng.uniform(-0.5, 0.5, 18)
    plan = controller.plan(range(18), progress, rng.random(18).tolist())
    assert t_valid[0] <= int(plan.t.min()) and int(plan.t.max()) <= t_valid[1]


def test_modes() -> None:
    full, schedule, random = (_controller(timestep_mode=mode) for mode in ("full", "schedule", "random"))
    for controller in (full, schedule, random):
        for loss in (0.1, 0.5, 2.0):
            _observe(controller, 4, loss)
    regions, u = [4, 90], [0.5, 0.5]
    plans = [controller.plan(regions, 0.5, u) for controller in (full, schedule, random)]
    assert len({plan.t_global for plan in plans}) == 1
    assert plans[0].t_base[0] > plans[0].t_global and plans[0].t_base[1] == plans[0].t_global
    assert plans[1].t_base.tolist() == [plans[1].t_global] * 2 and not schedule.history.t_local.any()
    assert plans[2].t.tolist() == [500, 500] and plans[2].t_local.tolist() == [0.0, 0.0]
    ends = random.plan(regions, 0.5, [0.0, 1 - 2**-24])
    assert ends.t.tolist() == [100, 900]


@pytest.mark.parametrize("mode", ["schedule", "random"])
def test_local_states_of_a_full_run_are_not_used_in_other_modes(mode) -> None:
    """A run that goes on from a checkpoint of another mode."""
    other = _controller(timestep_mode=mode)
    other.history.t_local[:] = 0.3
    assert other.plan([4], 0.5, [0.5]).t_local.tolist() == [0.0]


def test_permuting_the_views_permutes_the_timesteps() -> None:
    controller, order = _controller(), np.array([3, 1, 0, 2])
    controller.history.t_local[:] = np.random.default_rng(0).uniform(-0.5, 0.5, 180)
    regions, u = np.array([1, 60, 61, 179]), np.array([0.1, 0.9, 0.4, 0.7])
    straight, turned = (controller.plan(regions[way], 0.4, u[way]) for way in (np.arange(4), order))
    for name in ("t", "t_local", "t_base"):
        assert torch.equal(getattr(straight, name)[order], getattr(turned, name))


@pytest.mark.parametrize("t_valid", [(-1, 5), (5, 4), (1, 1000)])
def test_a_valid_range_outside_the_table_is_refused(t_valid) -> None:
    with pytest.raises(ValueError, match=r"expected first and last timestep within 0\.\.999"):
        _controller(t_valid)


# --- the loss that the signals read


def _signal(mode: str, **settings) -> LossSignal:
    return LossSignal(ALPHAS, dataclasses.replace(PARAMS, loss_signal=mode, **settings))


def test_residual_is_the_loss_and_weighted_is_w_times_it() -> None:
    losses, t = torch.tensor([0.2, 3.0]), torch.tensor([20, 999])
    assert _signal("residual")(losses, t).tolist() == losses.double().tolist()
    abar = ALPHAS[t]
    assert _signal("weighted")(losses, t).tolist() == pytest.approx((losses.double() * ((1 - abar) / abar).sqrt()).tolist(), rel=1e-12)


def test_t_normalised_divides_by_the_running_mean_of_the_bin() -> None:
    signal = _signal("t_normalised", loss_signal_bins=10)
    assert signal(torch.tensor([4.0]), torch.tensor([50])).tolist() == [1.0]
    assert signal(torch.tensor([2.0, 9.0]), torch.tensor([99, 100])).tolist() == pytest.approx([2 / 3, 1.0])
    assert signal(torch.tensor([6.0]), torch.tensor([0])).tolist() == pytest.approx([6 / 4])


def test_t_normalised_takes_the_timestep_out_of_the_loss() -> None:
    """Losses that depend on t alone, 1000-fold: the signal stays within what a bin spans."""
    signal, t = _signal("t_normalised"), Draws(0).integers(1, 1000, 3000)
    losses = torch.exp(-7 * t / 1000)
    signal(losses, t)
    again = signal(losses, t)
    assert float(losses.max() / losses.min()) > 1000 and float(again.max() / again.min()) < 1.25


def test_signals_do_not_depend_on_the_order_of_the_views() -> None:
    losses, t, order = torch.tensor([1.0, 3.0, 8.0]), torch.tensor([10, 12, 14]), torch.tensor([2, 0, 1])
    straight, turned = _signal("t_normalised")(losses, t), _signal("t_normalised")(losses[order], t[order])
    assert straight[order].tolist() == pytest.approx(turned.tolist(), rel=1e-14)


@pytest.mark.parametrize("mode", ["residual", "weighted", "t_normalised"])
def test_a_loss_that_is_not_finite_stays_so_and_is_not_learnt(mode) -> None:
    signal = _signal(mode)
    out = signal(torch.tensor([math.nan, 2.0, math.inf, 0.0]), torch.tensor([500, 500, 500, 100]))
    assert out.isfinite().tolist() == [False, True, False, True] and int(signal.count.sum()) in (0, 2)
    assert np.isfinite(signal.mean).all()
    if mode == "t_normalised":
        assert out[[1, 3]].tolist() == [1.0, 1.0]  # a bin of zeros has nothing to compare


def test_signal_state_round_trip() -> None:
    first, second = _signal("t_normalised"), _signal("t_normalised")
    first(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([10, 10, 600]))
    second.load_state_dict(first.state_dict())
    assert torch.equal(*(signal(torch.tensor([3.0]), torch.tensor([11])) for signal in (first, second)))
    with pytest.raises(ValueError, match="loss_signal_bins is 7; expected 40, as in the saved loss signal"):
        _signal("t_normalised", loss_signal_bins=7).load_state_dict(first.state_dict())
