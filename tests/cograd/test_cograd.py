# SPDX-License-Identifier: Apache-2.0
"""The facade: B = 1 as in the paper, one region, ablations, permuted views, states, the record of a step."""

import dataclasses
import json
import math
from collections.abc import Mapping

import pytest
import torch

from arguments import CoGradParams, Config, GuidanceParams
from arguments.checks import contradictions
from arguments.declare import keys_of
from cograd import CoGrad, Observation
from cograd.fusion import fuse
from cograd.regions import indicators
from cograd.timesteps import global_timestep, log_snr, schedule_progress
from guidance.sd_step import scaled_linear_alphas
from scene.densify import IndexMap
from tests.cograd.geometry import region_of
from tests.drawn import Draws
from utils.random_streams import RandomStreams
from utils.tree_file import load_tree, save_tree

ALPHAS = scaled_linear_alphas()
TOTAL = 50
SMALL = CoGradParams(elevation_levels=2, azimuth_levels=3, distance_levels=1, bank_precision="float32", t_jitter=20)


def _cograd(total: int = TOTAL, **settings) -> CoGrad:
    return CoGrad(dataclasses.replace(SMALL, **settings), ALPHAS, total)


def _gradient(step: int, region: int, n: int = 12) -> dict[str, torch.Tensor]:
    draws = Draws(100 * step + region)
    return {"xyz": draws.normal(n, 3), "opacity": draws.normal(n, 1)}


def _loss(step: int, region: int) -> float:
    return 1.0 + 0.3 * math.sin(7.0 * step + region)


def _run(cograd: CoGrad, streams: RandomStreams, steps: range, batch: int = 2) -> list[dict]:
    """A trainer without images: losses and gradients are functions of step and region."""
    records = []
    for step in steps:
        plan = cograd.plan(step, batch, streams.torch)
        regions = plan.regions.tolist()
        gradients = [_gradient(step, region) for region in regions]
        fusion = [cograd.fuse(step, *view).record() for view in zip(regions, plan.t.tolist(), gradients)]
        losses = torch.tensor([_loss(step, region) for region in regions])
        observation = cograd.observe(step, plan.regions, plan.t, losses, gradients)
        if step % 10 == 0:
            cograd.remap_rows(IndexMap.identity(12))
        records.append(cograd.record(plan, fusion, observation))
    return records


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return a == b


def test_one_view_a_step_is_the_papers_text() -> None:
    """B = 1: region from P, t around t_base, candidates of earlier steps, g_main stored; step by step from the parts."""
    cograd, streams, mirror = _cograd(), RandomStreams(3), RandomStreams(3)
    fused = 0
    for step in range(1, TOTAL + 1):
        p = torch.softmax(torch.from_numpy(indicators(cograd.history, cograd.params)) / 0.1, dim=0)
        times_before = [cograd.controller.neighbourhood_timesteps(i) for i in range(6)]
        plan = cograd.plan(step, 1, streams.torch)
        u_region, u_t = mirror.rand(1).double(), mirror.rand(1).double()
        region = int((p.cumsum(0) <= u_region).sum())
        assert plan.regions.tolist() == [region] and plan.probabilities.tolist() == pytest.approx(p.tolist(), rel=1e-9)
        t_base = min(max(plan.t_global + times_before[region], 100), 900)
        assert plan.t.tolist() == [min(max(round(t_base + 20 * (2 * float(u_t) - 1)), 1), 999)]
        g_main, stored = _gradient(step, region), dict(cograd.bank.entries)
        hists = [
            (2.0**-d, stored[j].unpack(g_main))
            for j, d in cograd.grid.neighbours[region]
            if j in stored and 0.2 * TOTAL <= step <= 0.75 * TOTAL and step - stored[j].step < 0.1 * step and abs(int(plan.t) - stored[j].t) < 50
        ]
        result = cograd.fuse(step, region, int(plan.t), g_main)
        assert _equal(result.g_fused, fuse(g_main, hists).g_fused)
        fused += len(hists) > 0
        cograd.observe(step, plan.regions, plan.t, torch.tensor([_loss(step, region)]), [g_main])
        if region in cograd.bank.entries:
            assert _equal(cograd.bank.entries[region].unpack(g_main), g_main)  # g_main, never g_fused
    assert fused > 5 and int(cograd.history.n.sum()) == TOTAL


@pytest.mark.parametrize("total", [1, 3, TOTAL])
@pytest.mark.parametrize("reading", ["interval", "clamp"])
def test_progress_is_the_steps_number_by_their_count(total, reading) -> None:
    """prog = k / total of step k = 1..total: the last step is at 1, and no step at 0."""
    cograd = _cograd(total, prog_reading=reading, prog_range=(0.1, 0.9))
    for step in range(1, total + 1):
        s = schedule_progress(step / total, reading, (0.1, 0.9))
        expected = global_timestep(s, log_snr(ALPHAS))
        assert cograd.plan(step, 1, torch.Generator()).t_global == pytest.approx(expected, abs=1e-9)
    assert s == pytest.approx(0.9 if reading == "interval" else 1.0)


def test_the_record_has_the_probability_of_the_regions_that_were_drawn() -> None:
    cograd, streams = _cograd(), RandomStreams(1)
    _run(cograd, streams, range(1, 20))
    plan = cograd.plan(20, 2, streams.torch)
    record = cograd.record(plan, [], Observation([], [], []))
    assert record["probability"] == plan.probabilities[plan.regions].tolist() and record["regions"] == plan.regions.tolist()
    assert len(set(plan.probabilities.tolist())) > 4
    assert plan.probabilities.tolist() == pytest.approx(torch.softmax(torch.from_numpy(indicators(cograd.history, cograd.params)) / 0.1, 0).tolist())
    assert record["largest_probability"] == pytest.approx(max(plan.probabilities.tolist()))


def test_one_region_is_always_looked_at_and_gradients_pass_through_an_empty_bank() -> None:
    cograd = _cograd(elevation_levels=1, azimuth_levels=1)
    plan = cograd.plan(1, 1, torch.Generator())
    assert plan.regions.tolist() == [0] and plan.probabilities.tolist() == [1.0] and plan.t_local.tolist() == [0.0]
    g_main = _gradient(1, 0)
    assert cograd.fuse(25, 0, 500, g_main).g_fused is g_main


def test_gradients_of_the_same_step_are_no_candidates() -> None:
    cograd = _cograd()
    regions, t = torch.tensor([0, 1]), torch.tensor([500, 500])
    for region in (0, 1):
        assert cograd.fuse(25, region, 500, _gradient(25, region)).cosines == ()
    cograd.observe(25, regions, t, torch.ones(2), [_gradient(25, 0), _gradient(25, 1)])
    assert len(cograd.fuse(26, 0, 500, _gradient(26, 0)).cosines) == 2


def test_permuting_the_views_permutes_the_results_and_leaves_the_state() -> None:
    for mode in ("residual", "t_normalised"):
        pair = [_cograd(loss_signal=mode), _cograd(loss_signal=mode)]
        regions, t = torch.tensor([0, 4, 2]), torch.tensor([500, 520, 480])
        orders = torch.arange(3), torch.tensor([2, 0, 1])
        fused = []
        for cograd, order in zip(pair, orders):
            for step in (24, 25, 26):
                gradients = [_gradient(step, int(r)) for r in regions[order]]
                results = [cograd.fuse(step, int(r), int(k), g) for r, k, g in zip(regions[order], t[order], gradients)]
                losses = torch.tensor([_loss(step, int(r)) for r in regions[order]])
                cograd.observe(step, regions[order], t[order], losses, gradients)
            fused.append([results[k].g_fused for k in order.argsort()])
        assert all(_equal(a, b) for a, b in zip(*fused)) and any(len(result.cosines) for result in results)
        states = [cograd.state_dict() for cograd in pair]
        assert _equal(states[0]["bank"]["entries"]["2"], states[1]["bank"]["entries"]["2"])
        for part in ("history", "signal"):
            for name, x in states[0][part].items():
                if name == "loss_signal":
                    continue
                assert torch.as_tensor(x).tolist() == pytest.approx(torch.as_tensor(states[1][part][name]).tolist(), rel=1e-12)


def test_ablations() -> None:
    """Each switch takes its part away and no other."""
    runs = {name: _cograd(**settings) for name, settings in {"full": {}, "wo_a": {"use_regions": False}, "wo_b": {"timestep_mode": "random"}, "schedule": {"timestep_mode": "schedule"}, "wo_c": {"use_fusion": False}}.items()}  # fmt: skip
    records = {name: _run(cograd, RandomStreams(1), range(1, TOTAL + 1)) for name, cograd in runs.items()}
    uniform = {name: all(r["largest_probability"] == pytest.approx(1 / 6) for r in rs) for name, rs in records.items()}
    assert uniform == {"full": False, "wo_a": True, "wo_b": False, "schedule": False, "wo_c": False}
    near = {name: all(abs(t - min(max(r["t_global"], 100), 900)) <= 20.5 for r in rs for t in r["t"]) for name, rs in records.items()}
    assert near == {"full": False, "wo_a": False, "wo_b": False, "schedule": True, "wo_c": False}
    fused = {name: any(view["cosines"] for r in rs for view in r["fusion"]) for name, rs in records.items()}
    assert fused == {"full": True, "wo_a": True, "wo_b": True, "schedule": True, "wo_c": False}
    assert max(r["bank_entries"] for r in records["wo_c"]) == 0
    assert _equal([r["regions"] for r in records["full"]], [r["regions"] for r in records["wo_c"]])  # fusion draws nothing


@pytest.mark.parametrize("mode", ["residual", "t_normalised"])
@pytest.mark.parametrize("cut", [1, 9, 26, 40])
def test_resumed_run_equals_the_unbroken_one(cut, mode, tmp_path) -> None:
    whole, streams = _cograd(loss_signal=mode), RandomStreams(2)
    records = _run(whole, streams, range(1, TOTAL + 1))
    first, streams = _cograd(loss_signal=mode), RandomStreams(2)
    _run(first, streams, range(1, cut + 1))
    save_tree(tmp_path / "state.safetensors", {"cograd": first.state_dict(), "streams": streams.state_dict()})
    saved = load_tree(tmp_path / "state.safetensors")
    second, streams = _cograd(loss_signal=mode), RandomStreams(9)
    second.load_state_dict(saved["cograd"]), streams.load_state_dict(saved["streams"])
    assert _run(second, streams, range(cut + 1, TOTAL + 1)) == records[cut:]
    assert _equal(second.state_dict(), whole.state_dict())


def test_a_loss_that_is_not_finite_leaves_nothing_but_a_count() -> None:
    cograd, regions, t = _cograd(), torch.tensor([0, 1]), torch.tensor([500, 500])
    cograd.plan(25, 2, torch.Generator())
    observation = cograd.observe(25, regions, t, torch.tensor([math.nan, 1.0]), [_gradient(25, 0), _gradient(25, 1)])
    assert cograd.history.refused == 1 and observation.signal == [None, 1.0] and observation.u == [None, 0.0]
    assert sorted(cograd.bank.entries) == [1] and cograd.history.n.tolist() == [0, 1, 0, 0, 0, 0]
    cograd.observe(26, regions, t, torch.ones(2), [None, None])
    assert cograd.bank.entries[1].step == 25 and cograd.history.n.tolist() == [1, 2, 0, 0, 0, 0]


def test_record_is_strict_json_and_tells_all() -> None:
    cograd = _cograd()
    record = _run(cograd, RandomStreams(1), range(1, 31))[-1]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["bank_bytes"] == cograd.bank.nbytes() > 0 and record["bank_limit_bytes"] == 1400 * 10**6 and len(record["fusion"]) == len(record["t"]) == 2
    for view in record["fusion"]:
        assert view["fused_norm"] >= view["main_norm"] * (1 - 1e-6)
        assert len(view["cosines"]) == len(view["distances"]) == view["auxiliaries"]


def test_maps_are_indexed_by_elevation_azimuth_distance() -> None:
    cograd = CoGrad(CoGradParams(), ALPHAS, TOTAL)
    region = region_of(cograd.grid, theta_deg=40.0, phi_deg=30.0, radius=1.6)  # top level, third sector, nearer half
    for loss in (1.0, 2.0):
        cograd.observe(1, torch.tensor([region]), torch.tensor([500]), torch.tensor([loss]), [None])
    maps = cograd.maps()
    assert {tuple(x.shape) for x in maps.values()} == {(3, 30, 2)}
    assert int(maps["visits"][2, 2, 0]) == 2 and float(maps["indicator"][2, 2, 0]) == pytest.approx(1.5, rel=1e-6)
    assert float(maps["t_local"][2, 2, 0]) == pytest.approx(50.0) and float(maps["probability"].sum()) == pytest.approx(1.0)


def test_opposite_views_change_the_regions_and_no_other_draw() -> None:
    plans = []
    for opposite in (False, True):
        cograd = CoGrad(CoGradParams(opposite_views=opposite), scaled_linear_alphas(), 100)
        plans.append(cograd.plan(1, 4, torch.Generator().manual_seed(2)))
    plain, opposite = plans
    assert torch.equal(plain.t, opposite.t) and plain.regions[0] == opposite.regions[0]
    azimuths = cograd.grid.coordinates(opposite.regions)[:, 1]
    assert ((azimuths[1::2] - azimuths[::2]).abs() == 15).all()


def test_defaults_are_the_papers() -> None:
    defaults = {name: default for name, (_, _, default) in keys_of(CoGradParams).items()}
    paper = {
        "elevation_levels": 3, "azimuth_levels": 30, "distance_levels": 2, "elevation_range": (-30.0, 60.0), "distance_range": (1.5, 2.0),
        "neighbour_distance": 2, "eps_stab": 1e-6, "tau": 0.1, "prog_range": (0.2, 0.8), "c1": 0.5, "c2": 0.3, "c3": 0.2, "u_max": 0.05,
        "momentum": 0.9, "c_local": 0.2, "t_base_range": (100, 900), "t_jitter": 100, "fusion_range": (0.2, 0.75), "max_step_share": 0.1,
        "max_t_difference": 50, "delta": 1e-8,
    }  # fmt: skip
    decided = {
        "enabled": False, "use_regions": True, "timestep_mode": "full", "use_fusion": True, "min_visit_share": 0.0, "opposite_views": False, "loss_signal": "residual",
        "prog_reading": "interval", "ema_factor": 0.9, "own_region_is_candidate": True, "projection": "vector",
    }  # fmt: skip
    assert {name: defaults[name] for name in paper | decided} == paper | decided
    assert defaults.keys() - paper.keys() - decided.keys() == {"loss_signal_bins", "bank_precision", "bank_limit_mb", "bank_on_cpu"}


@pytest.mark.parametrize(
    ("cograd", "views", "problem"),
    [
        ({"distance_range": (2.0, 2.0)}, 1, ("CoGradParams.distance_range", "[2.0, 2.0]", "lo < hi, or 1 in CoGradParams.distance_levels, which is 2")),
        ({"elevation_range": (5.0, 5.0), "elevation_levels": 3}, 1, ("CoGradParams.elevation_range", "[5.0, 5.0]", "lo < hi, or 1 in CoGradParams.elevation_levels, which is 3")),
        ({"opposite_views": True, "azimuth_levels": 5}, 2, ("CoGradParams.azimuth_levels", "5", "an even number with CoGradParams.opposite_views")),
        ({"elevation_levels": 1, "azimuth_levels": 3, "distance_levels": 1}, 4, ("GuidanceParams.C_batch_size", "4", "at most the number of regions, 3, all views differ")),
    ],
)
def test_grids_that_cannot_be_are_met_at_the_door(cograd, views, problem) -> None:
    guidance = GuidanceParams(text="a mug", C_batch_size=views)
    for enabled in (True, False):
        config = Config(guidance=guidance, cograd=CoGradParams(enabled=enabled, **cograd))
        assert (problem in list(contradictions(config))) == enabled
