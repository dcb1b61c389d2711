# SPDX-License-Identifier: Apache-2.0
"""Who may be fused, what storage costs and keeps, and that a stored gradient follows its Gaussians."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import CoGradParams, OptimizationParams
from cograd.gradient_bank import GradientBank, PackedGradient, PlainGradient
from cograd.regions import RegionGrid
from scene.densify import IndexMap
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from tests.drawn import Draws
from utils.random_streams import RandomStreams
from utils.tree_file import load_tree, save_tree

EXACT = CoGradParams(bank_precision="float32")
GRID = RegionGrid()
TOTAL = 1000
PRECISIONS = ["float32", "float16"]


def _bank(total_steps: int = TOTAL, **settings) -> GradientBank:
    return GradientBank(GRID, dataclasses.replace(EXACT, **settings), total_steps)


def _gradient(n: int = 30, seed: int = 0, seen: float = 0.5) -> dict[str, torch.Tensor]:
    """What a view leaves: zeros where it sees nothing, the scale term's gradient everywhere, nothing in f_rest."""
    draws = Draws(seed)
    visible = draws.uniform(n) < seen
    g = {"xyz": draws.normal(n, 3), "f_dc": draws.normal(n, 1, 3), "f_rest": torch.zeros(n, 0, 3)}
    g |= {"opacity": 1e-4 * draws.normal(n, 1), "rotation": draws.normal(n, 4)}
    g = {name: x * visible.view(-1, *[1] * (x.dim() - 1)) for name, x in g.items()}
    return {**g, "scaling": draws.normal(n, 3), "background": draws.normal(3, 1, 1)}


def _pack(bank: GradientBank) -> GradientBank:
    """What a bank beyond its limit does, to every entry."""
    dtype = getattr(torch, bank.params.bank_precision)
    bank.entries = {region: PackedGradient.pack(entry, dtype) for region, entry in bank.entries.items()}
    bank._count_bytes()
    return bank


def _same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _regions_found(bank: GradientBank, step: int, region: int, t: int, like) -> list[int]:
    return [c.region for c in bank.candidates(step, region, t, like)]


# --- eligibility


@pytest.mark.parametrize(
    ("step", "t", "found"),
    [
        (400, 300, True),
        (444, 300, True),  # 44 / 444 = .0991
        (445, 300, False),  # 45 / 445 = .1011
        (400, 349, True),
        (400, 350, False),
        (400, 251, True),
        (400, 250, False),
    ],
)
def test_step_and_timestep_decide(step, t, found) -> None:
    bank, g = _bank(), _gradient()
    bank.store(400, 64, 300, g)
    assert _regions_found(bank, step, 64, t, g) == ([64] if found else [])


@pytest.mark.parametrize("step", [10, 20, 30, 70, 110, 700])
def test_exactly_a_tenth_of_the_step_is_too_old(step) -> None:
    bank = _bank()
    assert not bank.is_eligible(step, 0, step - step // 10, 0)
    assert bank.is_eligible(step, 0, step - step // 10 + 1, 0)


def test_distance_decides_and_weighs() -> None:
    bank, g = _bank(), _gradient()
    middle, face, corner, far = ((1 * 30 + a) * 2 + d for a, d in ((0, 0), (29, 0), (1, 1), (2, 0)))
    for region in (middle, face, corner, far):
        bank.store(400, region, 300, _gradient(seed=region))
    found = bank.candidates(401, middle, 300, g)
    assert [(c.region, c.d, c.w, c.step, c.t) for c in found] == [(middle, 0, 1.0, 400, 300), (face, 1, 0.5, 400, 300)]
    assert all(_same(c.g_hist, _gradient(seed=c.region)) for c in found)


def test_own_region_is_a_candidate_unless_told_otherwise() -> None:
    for own in (True, False):
        bank, g = _bank(own_region_is_candidate=own), _gradient()
        bank.store(400, 64, 300, g), bank.store(400, 65, 300, g)
        assert _regions_found(bank, 401, 64, 300, g) == ([64, 65] if own else [65])


def test_only_the_latest_gradient_of_a_region_is_there() -> None:
    bank = _bank()
    bank.store(400, 64, 300, _gradient(seed=1)), bank.store(401, 64, 700, _gradient(seed=2))
    assert len(bank) == 1 and _regions_found(bank, 402, 64, 300, _gradient()) == []
    assert _same(bank.candidates(402, 64, 700, _gradient())[0].g_hist, _gradient(seed=2))


@pytest.mark.parametrize("step, active", [(199, False), (200, True), (750, True), (751, False)])
def test_fusion_is_active_from_a_fifth_to_three_quarters(step, active) -> None:
    bank, g = _bank(), _gradient()
    bank.entries[64] = PlainGradient.copy(g, step - 1, 300, bank.fixed_names)
    assert bank.is_active(step) == active and len(bank.candidates(step, 64, 300, g)) == active
    assert not _bank(use_fusion=False).is_active(step)


@pytest.mark.parametrize("total", [5, 10, 15, 30, 55, 6000])
def test_active_steps_are_whole_fractions(total) -> None:
    bank = _bank(total)
    active = [k for k in range(1, total + 1) if bank.is_active(k)]
    assert active == [k for k in range(1, total + 1) if 20 * k >= 4 * total and 4 * k <= 3 * total]
    assert not active or bank.first_step == active[0]


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 120), st.lists(st.integers(1, 120), min_size=1, max_size=25, unique=True).map(sorted), st.floats(0, 0.5))
def test_what_is_dropped_could_never_have_been_fused(total, steps, share) -> None:
    """Against a bank that forgets nothing, at every step to the end; and what is kept is of use some day."""
    bank, everything = _bank(total, max_step_share=share), {}
    g = _gradient(4)
    for step in range(1, total + 1):
        expected = [j for j in (64, 65) if j in everything and bank.is_active(step) and bank.is_eligible(step, 0, everything[j], 0)]
        assert sorted(_regions_found(bank, step, 64, 0, g)) == expected
        if step in steps:
            region = 64 + steps.index(step) % 2
            bank.store(step, region, 0, g)
            everything[region] = step
        bank.drop_expired(step)
        for entry in bank.entries.values():
            assert any(bank.is_active(k) and (k - entry.step) / k < share for k in range(step + 1, total + 1))


# --- storage


def test_every_number_is_kept_until_the_bank_is_full() -> None:
    for precision in PRECISIONS:
        bank, g = _bank(bank_precision=precision), _gradient()
        bank.store(400, 64, 300, g)
        assert _same(bank.candidates(401, 64, 300, g)[0].g_hist, g)
        assert bank.nbytes() == sum(4 * x.numel() for x in g.values())


def test_packing_to_float32_keeps_every_number() -> None:
    bank, g = _bank(), _gradient()
    bank.store(400, 64, 300, g)
    assert _same(_pack(bank).candidates(401, 64, 300, g)[0].g_hist, g)


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 1e20])
def test_float16_rounds_relative_to_each_tensors_largest_number(scale) -> None:
    """2^-11 of the number where float16 is normal; below that half its spacing, 2^-25, of a largest number of 2^13."""
    bank, g = _bank(bank_precision="float16"), {name: scale * x for name, x in _gradient().items()}
    bank.store(400, 64, 300, g)
    stored = _pack(bank).candidates(401, 64, 300, g)[0].g_hist
    for name, x in g.items():
        if x.numel():
            bound = 2.0**-11 * x.abs() + 2.0**-38 * x.abs().max()
            assert x.dtype == stored[name].dtype and ((stored[name] - x).abs() <= bound).all()


def test_gradients_too_small_for_float16s_scale_become_small_not_wrong() -> None:
    bank, g = _bank(bank_precision="float16"), {"x": torch.tensor([[1e-40], [1e-44]])}
    bank.store(400, 64, 300, g)
    assert ((_pack(bank).candidates(401, 64, 300, g)[0].g_hist["x"] - g["x"]).abs() < 1e-40).all()


def test_powers_of_two_survive_float16() -> None:
    bank, g = _bank(bank_precision="float16"), {"x": torch.tensor([[2.0**-30], [0.0], [-(2.0**-33)], [0.0]])}
    bank.store(400, 64, 300, g)
    assert _same(_pack(bank).candidates(401, 64, 300, g)[0].g_hist, g)


def test_only_rows_that_a_view_moves_are_packed() -> None:
    n = 1000
    bank, g = _bank(), {name: x for name, x in _gradient(n, seen=0.2).items() if name != "background"}
    bank.store(400, 64, 300, g)
    rows = int((g["xyz"] != 0).any(dim=1).sum())
    assert rows < 300
    assert _pack(bank).nbytes() == rows * (4 + 4 * (3 + 3 + 1 + 4)) + n * 4 * 3  # an index, four sparse tensors; the dense scales
    half = _bank(bank_precision="float16")
    half.store(400, 64, 300, g)
    assert _pack(half).nbytes() == rows * (4 + 2 * (3 + 3 + 1 + 4)) + n * 2 * 3


def test_a_view_of_everything_is_packed_whole_without_an_index() -> None:
    bank, g = _bank(), _gradient(100, seen=2.0)
    bank.store(400, 64, 300, g)
    assert _pack(bank).nbytes() == 100 * 14 * 4 + 3 * 4


def test_180_gradients_of_300k_gaussians_fit_the_bound_by_default() -> None:
    """Where every Gaussian is seen: 28 bytes each; counted on 1000 Gaussians, since bytes are linear in N."""
    params, n = CoGradParams(), 1000
    bank = GradientBank(GRID, dataclasses.replace(params, max_step_share=0.9), 6000)
    for region in range(180):
        bank.store(3000 + region, region, 300, _gradient(n, seed=region, seen=2.0))
    assert len(bank) == 180
    per_entry = (_pack(bank).nbytes() / 180 - 6) * 300_000 / n
    limit = params.bank_limit_mb * 10**6
    assert limit <= 1.5e9 and 180 * per_entry < 1.09 * limit  # the bound cuts 14 of 180 in this worst case, and no more


def test_beyond_the_limit_the_oldest_are_packed_and_then_go() -> None:
    n = 30_000  # 1.68 MB each, .84 MB packed
    bank = _bank(bank_limit_mb=5, bank_precision="float16")
    packed = []
    for k, region in enumerate((7, 9, 64, 3, 70, 72)):
        bank.store(400 + k, region, 300, _gradient(n, seen=2.0))
        assert bank.nbytes() <= 5e6
        packed.append([i for i, entry in bank.entries.items() if isinstance(entry, PackedGradient)])
    assert [sorted(regions) for regions in packed] == [[], [], [7], [7, 9, 64], [3, 7, 9, 64, 70], [3, 9, 64, 70, 72]]
    assert sorted(bank.entries) == [3, 9, 64, 70, 72] and bank.evicted == 1
    tiny = _bank(bank_limit_mb=1)
    tiny.store(400, 64, 300, _gradient(n, seen=2.0))
    assert len(tiny) == 0 and tiny.evicted == 1


def test_the_bank_keeps_a_copy() -> None:
    for precision in PRECISIONS:
        bank, g = _bank(bank_precision=precision), _gradient()
        bank.store(400, 64, 300, g)
        before = {name: x.clone() for name, x in bank.candidates(401, 64, 300, g)[0].g_hist.items()}
        for x in g.values():
            x.fill_(7.0)
        assert _same(bank.candidates(401, 64, 300, g)[0].g_hist, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_refused_and_counted(bad) -> None:
    bank, g = _bank(), _gradient()
    bank.store(400, 64, 300, g)
    broken = {**g, "opacity": g["opacity"].clone()}
    broken["opacity"][3] = bad
    bank.store(401, 64, 300, broken)
    assert bank.refused == 1 and bank.entries[64].step == 400


def test_a_gradient_of_other_parameters_is_refused() -> None:
    bank, g = _bank(), _gradient(30)
    bank.store(400, 64, 300, g)
    with pytest.raises(ValueError, match=r"the bank holds gradients of 30 Gaussians .* call follow\(index_map\)"):
        bank.candidates(401, 64, 300, _gradient(29))
    with pytest.raises(ValueError, match="not of colour"):
        bank.candidates(401, 64, 300, {"colour": g["xyz"]})
    with pytest.raises(ValueError, match="expected one length, or names called fixed"):
        bank.store(401, 64, 300, {**g, "opacity": torch.ones(3, 1)})
    with pytest.raises(ValueError, match="the index map reads row 30, the bank holds 30 Gaussians"):
        bank.follow(IndexMap.identity(31))


def test_parameters_that_are_no_gaussians() -> None:
    """Another trainer: tensors of any shape, all of them fixed."""
    draws = Draws(0)
    g = {"weight": draws.normal(4, 7), "bias": draws.normal(4), "gain": draws.normal()}
    bank = GradientBank(GRID, EXACT, TOTAL, frozenset(g))
    bank.store(400, 64, 300, g)
    bank.follow(IndexMap.identity(0))
    assert _same(bank.candidates(401, 64, 300, g)[0].g_hist, g)


def test_storage_can_be_elsewhere() -> None:
    bank, g = _bank(bank_on_cpu=True), _gradient()
    bank.store(400, 64, 300, g)
    entry = bank.entries[64]
    assert {x.device.type for x in entry.gradient.values()} == {"cpu"}
    assert _same(bank.candidates(401, 64, 300, g)[0].g_hist, g)


# --- densification


def _model(n: int, seed: int) -> GaussianModel:
    """Small and large Gaussians, faint ones, high and low gradients; the first moment of xyz[:, 0] is 1 + a name."""
    draws = Draws(seed)
    model = GaussianModel(0)
    values = {name: draws.normal(n, *p.shape[1:]) for name, p in model.parameters_in_order().items()}
    values["scaling"] = torch.log(0.04 + 0.16 * draws.uniform(n, 1)).repeat(1, 3)
    model._set_parameters({name: values[name] for name in PER_GAUSSIAN})
    model.training_setup(OptimizationParams(percent_dense=0.1))
    for parameter in model.parameters_in_order().values():
        parameter.grad = torch.ones_like(parameter)
    model.optimizer.step()
    _moment(model)[:, 0] = torch.arange(n) + 1.0
    _statistics(model, draws)
    return model


def _moment(model: GaussianModel) -> torch.Tensor:
    return model.optimizer.state[model.get_xyz]["exp_avg"]


def _statistics(model: GaussianModel, draws: Draws) -> None:
    n = len(model.get_xyz)
    model.xyz_gradient_accum, model.denom = draws.uniform(n, 1), torch.ones(n, 1)


def _by_identity(model: GaussianModel, old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`old` rearranged by the names that Gaussians carry in their optimizer state; new ones have none, and zeros."""
    name = _moment(model)[:, 0].long()  # 0 for new rows
    return {key: torch.cat([torch.zeros(1, *x.shape[1:]), x])[name] for key, x in old.items()}


@pytest.mark.parametrize("precision", [None, *PRECISIONS])
@pytest.mark.parametrize("seed", range(4))
def test_bank_after_densification_is_the_bank_by_gaussian_identity(precision, seed) -> None:
    """Clone, split and prune twice, a prune by mask, an opacity reset: each by the model's own functions."""
    n, streams, draws = 60, RandomStreams(seed), Draws(seed + 100)
    model, bank = _model(n, seed), _bank(bank_precision=precision or "float32")
    like = {name: torch.zeros_like(p) for name, p in model.parameters_in_order().items() if name != "background"}
    gradients = {64: _gradient(n, seed=seed), 65: _gradient(n, seed=seed + 50, seen=0.1), 62: _gradient(n, seed=seed + 90, seen=2.0)}
    for region, g in gradients.items():
        bank.store(400, region, 300, {name: g[name] for name in like})
    if precision is not None:
        _pack(bank)
    before = {c.region: c.g_hist for c in bank.candidates(401, 64, 300, like)}
    assert before.keys() == gradients.keys()
    changes = (
        lambda: model.densify_and_prune(0.5, 0.3, 1.0, None, streams),
        model.reset_opacity,
        lambda: model.prune_points(draws.uniform(len(model.get_xyz)) < 0.2),
        lambda: model.densify_and_prune(0.7, 0.005, 1.0, 20, streams),
    )
    sizes, maps = [n], []
    for change in changes:
        maps.append(change())
        bank.follow(maps[-1])
        _statistics(model, draws)
        sizes.append(len(model.get_xyz))
        now = {name: torch.zeros_like(p) for name, p in model.parameters_in_order().items() if name != "background"}
        after = {c.region: c.g_hist for c in bank.candidates(401, 64, 300, now)}
        assert all(_same(after[region], _by_identity(model, before[region])) for region in gradients)
    added, dropped = [int(m.is_new.sum()) for m in maps], [n - int((~m.is_new).sum()) for n, m in zip(sizes, maps)]
    assert [k > 0 for k in added] == [True, False, False, True] and [k > 0 for k in dropped] == [True, False, True, True]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.data())
def test_follow_is_carry_for_any_map(n, data) -> None:
    """Rows in any order, repeated, new or gone; none left as well."""
    rows = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.booleans()), max_size=12))
    index_map = IndexMap(torch.tensor([r for r, _ in rows], dtype=torch.int64), torch.tensor([new for _, new in rows], dtype=torch.bool))
    bank, g = _bank(), {name: x for name, x in _gradient(n, data.draw(st.integers(0, 99))).items() if name != "background"}
    bank.store(400, 64, 300, g)
    if data.draw(st.booleans()):
        _pack(bank)
    bank.follow(index_map)
    carried = {name: index_map.carry(x) for name, x in g.items()}
    assert _same(bank.candidates(401, 64, 300, carried)[0].g_hist, carried)


def test_bytes_are_right_after_every_change() -> None:
    bank, n = _bank(), 30
    for step, region in ((400, 64), (405, 65), (410, 64), (440, 62), (446, 66), (470, 70)):  # replaced, expired
        bank.store(step, region, 300, _gradient(n, seed=step))
        bank.drop_expired(step)
        if step == 410:
            _pack(bank)
        assert bank.nbytes() == sum(entry.nbytes for entry in bank.entries.values()) > 0
        bank.follow(IndexMap.kept(torch.arange(n) > 0))
        n -= 1
        assert bank.nbytes() == sum(entry.nbytes for entry in bank.entries.values()) > 0
    assert sorted(bank.entries) == [62, 66, 70]


def test_all_gaussians_gone_and_an_empty_bank() -> None:
    bank, g = _bank(), _gradient(5)
    bank.follow(IndexMap.identity(17))
    bank.store(400, 64, 300, g)
    bank.follow(IndexMap.kept(torch.zeros(5, dtype=torch.bool)))
    nothing = {name: x[:0] if name != "background" else x for name, x in g.items()}
    assert _same(bank.candidates(401, 64, 300, nothing)[0].g_hist, nothing)
    bank.store(401, 64, 300, nothing)
    assert _same(bank.candidates(402, 64, 300, nothing)[0].g_hist, nothing)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_state_survives_a_checkpoint_file(precision, tmp_path) -> None:
    first, second = _bank(bank_precision=precision), _bank(bank_precision=precision)
    for region in (64, 65):
        first.store(400 + region, region, 300, _gradient(seed=region))
        if region == 64:
            _pack(first)
    first.evicted = 3
    save_tree(tmp_path / "bank.safetensors", first.state_dict())
    second.load_state_dict(load_tree(tmp_path / "bank.safetensors"))
    assert second.nbytes() == first.nbytes() and second.evicted == 3
    for bank in (first, second):
        bank.follow(IndexMap.kept(torch.arange(30) % 3 > 0))
        bank.store(470, 62, 310, _gradient(20, seed=5))
    found = [bank.candidates(471, 64, 305, _gradient(20)) for bank in (first, second)]
    assert len(found[0]) == 3
    assert all(a.step == b.step and a.t == b.t and _same(a.g_hist, b.g_hist) for a, b in zip(*found))
