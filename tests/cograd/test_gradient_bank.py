# SPDX-License-Identifier: Apache-2.0
"""Who may be fused, what storage costs and keeps."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import CoGradParams
from cograd.gradient_bank import GradientBank, PackedGradient, PlainGradient
from scene.densify import IndexMap
from tests.cograd.banks import EXACT, GRID, PRECISIONS, TOTAL, bank_of, gradient_of, pack, same
from tests.drawn import Draws
from utils.tree_file import load_tree, save_tree


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
    bank, g = bank_of(), gradient_of()
    bank.store(400, 64, 300, g)
    assert _regions_found(bank, step, 64, t, g) == ([64] if found else [])


@pytest.mark.parametrize("step", [10, 20, 30, 70, 110, 700])
def test_exactly_a_tenth_of_the_step_is_too_old(step) -> None:
    bank = bank_of()
    assert not bank.is_eligible(step, 0, step - step // 10, 0)
    assert bank.is_eligible(step, 0, step - step // 10 + 1, 0)


def test_distance_decides_and_weighs() -> None:
    bank, g = bank_of(), gradient_of()
    middle, face, corner, far = ((1 * 30 + a) * 2 + d for a, d in ((0, 0), (29, 0), (1, 1), (2, 0)))
    for region in (middle, face, corner, far):
        bank.store(400, region, 300, gradient_of(seed=region))
    found = bank.candidates(401, middle, 300, g)
    assert [(c.region, c.d, c.w, c.step, c.t) for c in found] == [(middle, 0, 1.0, 400, 300), (face, 1, 0.5, 400, 300)]
    assert all(same(c.g_hist, gradient_of(seed=c.region)) for c in found)


def test_own_region_is_a_candidate_unless_told_otherwise() -> None:
    for own in (True, False):
        bank, g = bank_of(own_region_is_candidate=own), gradient_of()
        bank.store(400, 64, 300, g), bank.store(400, 65, 300, g)
        assert _regions_found(bank, 401, 64, 300, g) == ([64, 65] if own else [65])


def test_only_the_latest_gradient_of_a_region_is_there() -> None:
    bank = bank_of()
    bank.store(400, 64, 300, gradient_of(seed=1)), bank.store(401, 64, 700, gradient_of(seed=2))
    assert len(bank) == 1 and _regions_found(bank, 402, 64, 300, gradient_of()) == []
    assert same(bank.candidates(402, 64, 700, gradient_of())[0].g_hist, gradient_of(seed=2))


@pytest.mark.parametrize("step, active", [(199, False), (200, True), (750, True), (751, False)])
def test_fusion_is_active_from_a_fifth_to_three_quarters(step, active) -> None:
    bank, g = bank_of(), gradient_of()
    bank.entries[64] = PlainGradient.copy(g, step - 1, 300, bank.fixed_names)
    assert bank.is_active(step) == active and len(bank.candidates(step, 64, 300, g)) == active
    assert not bank_of(use_fusion=False).is_active(step)


@pytest.mark.parametrize("total", [5, 10, 15, 30, 55, 6000])
def test_active_steps_are_whole_fractions(total) -> None:
    bank = bank_of(total)
    active = [k for k in range(1, total + 1) if bank.is_active(k)]
    assert active == [k for k in range(1, total + 1) if 20 * k >= 4 * total and 4 * k <= 3 * total]
    assert not active or bank.first_step == active[0]


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 120), st.lists(st.integers(1, 120), min_size=1, max_size=25, unique=True).map(sorted), st.floats(0, 0.5))
def test_what_is_dropped_could_never_have_been_fused(total, steps, share) -> None:
    """Against a bank that forgets nothing, at every step to the end; and what is kept is of use some day."""
    bank, everything = bank_of(total, max_step_share=share), {}
    g = gradient_of(4)
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
        bank, g = bank_of(bank_precision=precision), gradient_of()
        bank.store(400, 64, 300, g)
        assert same(bank.candidates(401, 64, 300, g)[0].g_hist, g)
        assert bank.nbytes() == sum(4 * x.numel() for x in g.values())


def test_packing_to_float32_keeps_every_number() -> None:
    bank, g = bank_of(), gradient_of()
    bank.store(400, 64, 300, g)
    assert same(pack(bank).candidates(401, 64, 300, g)[0].g_hist, g)


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 1e20])
def test_float16_rounds_relative_to_each_tensors_largest_number(scale) -> None:
    """2^-11 of the number where float16 is normal; below that half its spacing, 2^-25, of a largest number of 2^13."""
    bank, g = bank_of(bank_precision="float16"), {name: scale * x for name, x in gradient_of().items()}
    bank.store(400, 64, 300, g)
    stored = pack(bank).candidates(401, 64, 300, g)[0].g_hist
    for name, x in g.items():
        if x.numel():
            bound = 2.0**-11 * x.abs() + 2.0**-38 * x.abs().max()
            assert x.dtype == stored[name].dtype and ((stored[name] - x).abs() <= bound).all()


def test_gradients_too_small_for_float16s_scale_become_small_not_wrong() -> None:
    bank, g = bank_of(bank_precision="float16"), {"x": torch.tensor([[1e-40], [1e-44]])}
    bank.store(400, 64, 300, g)
    assert ((pack(bank).candidates(401, 64, 300, g)[0].g_hist["x"] - g["x"]).abs() < 1e-40).all()


def test_powers_of_two_survive_float16() -> None:
    bank, g = bank_of(bank_precision="float16"), {"x": torch.tensor([[2.0**-30], [0.0], [-(2.0**-33)], [0.0]])}
    bank.store(400, 64, 300, g)
    assert same(pack(bank).candidates(401, 64, 300, g)[0].g_hist, g)


def test_only_rows_that_a_view_moves_are_packed() -> None:
    n = 1000
    bank, g = bank_of(), {name: x for name, x in gradient_of(n, seen=0.2).items() if name != "background"}
    bank.store(400, 64, 300, g)
    rows = int((g["xyz"] != 0).any(dim=1).sum())
    assert rows < 300
    assert pack(bank).nbytes() == rows * (4 + 4 * (3 + 3 + 1 + 4)) + n * 4 * 3  # an index, four sparse tensors; the dense scales
    half = bank_of(bank_precision="float16")
    half.store(400, 64, 300, g)
    assert pack(half).nbytes() == rows * (4 + 2 * (3 + 3 + 1 + 4)) + n * 2 * 3


def test_a_view_of_everything_is_packed_whole_without_an_index() -> None:
    bank, g = bank_of(), gradient_of(100, seen=2.0)
    bank.store(400, 64, 300, g)
    assert pack(bank).nbytes() == 100 * 14 * 4 + 3 * 4


def test_180_gradients_of_300k_gaussians_fit_the_bound_by_default() -> None:
    """Where every Gaussian is seen: 28 bytes each; counted on 1000 Gaussians, since bytes are linear in N."""
    params, n = CoGradParams(), 1000
    bank = GradientBank(GRID, dataclasses.replace(params, max_step_share=0.9), 6000)
    for region in range(180):
        bank.store(3000 + region, region, 300, gradient_of(n, seed=region, seen=2.0))
    assert len(bank) == 180
    per_entry = (pack(bank).nbytes() / 180 - 6) * 300_000 / n
    limit = params.bank_limit_mb * 10**6
    assert limit <= 1.5e9 and 180 * per_entry < 1.09 * limit  # the bound cuts 14 of 180 in this worst case, and no more


def test_beyond_the_limit_the_oldest_are_packed_and_then_go() -> None:
    n = 30_000  # 1.68 MB each, .84 MB packed
    bank = bank_of(bank_limit_mb=5, bank_precision="float16")
    packed = []
    for k, region in enumerate((7, 9, 64, 3, 70, 72)):
        bank.store(400 + k, region, 300, gradient_of(n, seen=2.0))
        assert bank.nbytes() <= 5e6
        packed.append([i for i, entry in bank.entries.items() if isinstance(entry, PackedGradient)])
    assert [sorted(regions) for regions in packed] == [[], [], [7], [7, 9, 64], [3, 7, 9, 64, 70], [3, 9, 64, 70, 72]]
    assert sorted(bank.entries) == [3, 9, 64, 70, 72] and bank.evicted == 1
    tiny = bank_of(bank_limit_mb=1)
    tiny.store(400, 64, 300, gradient_of(n, seen=2.0))
    assert len(tiny) == 0 and tiny.evicted == 1


def test_the_bank_keeps_a_copy() -> None:
    for precision in PRECISIONS:
        bank, g = bank_of(bank_precision=precision), gradient_of()
        bank.store(400, 64, 300, g)
        before = {name: x.clone() for name, x in bank.candidates(401, 64, 300, g)[0].g_hist.items()}
        for x in g.values():
            x.fill_(7.0)
        assert same(bank.candidates(401, 64, 300, g)[0].g_hist, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_refused_and_counted(bad) -> None:
    bank, g = bank_of(), gradient_of()
    bank.store(400, 64, 300, g)
    broken = {**g, "opacity": g["opacity"].clone()}
    broken["opacity"][3] = bad
    bank.store(401, 64, 300, broken)
    assert bank.refused == 1 and bank.entries[64].step == 400


def test_a_gradient_of_other_parameters_is_refused() -> None:
    bank, g = bank_of(), gradient_of(30)
    bank.store(400, 64, 300, g)
    with pytest.raises(ValueError, match=r"xyz is \(29, 3\); expected one of .* with 30 rows, as in the bank: call remap_rows\(index_map\)"):
        bank.candidates(401, 64, 300, gradient_of(29))
    with pytest.raises(ValueError, match=r"colour is \(30, 3\); expected one of \['background'"):
        bank.candidates(401, 64, 300, {"colour": g["xyz"]})
    with pytest.raises(ValueError, match=r"'opacity': \(3, 1\).*; expected one number of rows: what is not by row belongs in fixed_names"):
        bank.store(401, 64, 300, {**g, "opacity": torch.ones(3, 1)})
    with pytest.raises(ValueError, match=r"index_map.source\[30\] is 30; expected a row of 0 to 29, those of the bank"):
        bank.remap_rows(IndexMap.identity(31))


def test_parameters_that_are_no_gaussians() -> None:
    """Another trainer: tensors of any shape, all of them fixed."""
    draws = Draws(0)
    g = {"weight": draws.normal(4, 7), "bias": draws.normal(4), "gain": draws.normal()}
    bank = GradientBank(GRID, EXACT, TOTAL, frozenset(g))
    bank.store(400, 64, 300, g)
    bank.remap_rows(IndexMap.identity(0))
    assert same(bank.candidates(401, 64, 300, g)[0].g_hist, g)


def test_storage_can_be_elsewhere() -> None:
    bank, g = bank_of(bank_on_cpu=True), gradient_of()
    bank.store(400, 64, 300, g)
    entry = bank.entries[64]
    assert {x.device.type for x in entry.gradient.values()} == {"cpu"}
    assert same(bank.candidates(401, 64, 300, g)[0].g_hist, g)


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_two_types_keep_them_when_their_rows_move(packed, tmp_path) -> None:
    g = gradient_of()
    g["opacity"], g["background"] = g["opacity"].half(), g["background"].double()
    first, second, kept = bank_of(), bank_of(), torch.arange(30) % 3 > 0
    first.store(400, 64, 300, g)
    if packed:
        pack(first)
    save_tree(tmp_path / "bank.safetensors", first.state_dict())
    second.load_state_dict(load_tree(tmp_path / "bank.safetensors"))
    for bank in (first, second):
        bank.remap_rows(IndexMap.kept(kept))
        left = {name: x if name == "background" else x[kept] for name, x in g.items()}
        found = bank.candidates(401, 64, 300, left)[0].g_hist
        assert {name: x.dtype for name, x in found.items()} == {name: x.dtype for name, x in g.items()}
        assert packed or same(found, left)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_state_survives_a_checkpoint_file(precision, tmp_path) -> None:
    first, second = bank_of(bank_precision=precision), bank_of(bank_precision=precision)
    for region in (64, 65):
        first.store(400 + region, region, 300, gradient_of(seed=region))
        if region == 64:
            pack(first)
    first.evicted = 3
    save_tree(tmp_path / "bank.safetensors", first.state_dict())
    second.load_state_dict(load_tree(tmp_path / "bank.safetensors"))
    assert second.nbytes() == first.nbytes() and second.evicted == 3
    for bank in (first, second):
        bank.remap_rows(IndexMap.kept(torch.arange(30) % 3 > 0))
        bank.store(470, 62, 310, gradient_of(20, seed=5))
    found = [bank.candidates(471, 64, 305, gradient_of(20)) for bank in (first, second)]
    assert len(found[0]) == 3
    assert all(a.step == b.step and a.t == b.t and same(a.g_hist, b.g_hist) for a, b in zip(*found))
