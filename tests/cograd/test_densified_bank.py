# SPDX-License-Identifier: Apache-2.0
"""A stored gradient follows its Gaussians when they are cloned, split and pruned."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import OptimizationParams
from scene.densify import IndexMap, prune
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from scene.relocation import relocate_and_grow
from tests.cograd.banks import PRECISIONS, bank_of, gradient_of, pack, same
from tests.drawn import Draws
from utils.random_streams import RandomStreams


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


def _with_dead_ones(model: GaussianModel, draws: Draws) -> None:
    """Makes about a tenth of the Gaussians transparent."""
    with torch.no_grad():
        model.parameters_in_order()["opacity"][draws.uniform(len(model.get_xyz)) < 0.1] = -9.0


def _by_identity(model: GaussianModel, old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`old` rearranged by the names that Gaussians carry in their optimizer state; new ones have none, and zeros."""
    name = _moment(model)[:, 0].long()  # 0 for new rows
    return {key: torch.cat([torch.zeros(1, *x.shape[1:]), x])[name] for key, x in old.items()}


@pytest.mark.parametrize("precision", [None, *PRECISIONS])
@pytest.mark.parametrize("seed", range(4))
def test_bank_after_densification_is_the_bank_by_gaussian_identity(precision, seed) -> None:
    """Clone, split and prune twice, a prune by mask, relocation and growth, an opacity reset: each by its function."""
    n, streams, draws = 60, RandomStreams(seed), Draws(seed + 100)
    model, bank = _model(n, seed), bank_of(bank_precision=precision or "float32")
    like = {name: torch.zeros_like(p) for name, p in model.parameters_in_order().items() if name != "background"}
    gradients = {64: gradient_of(n, seed=seed), 65: gradient_of(n, seed=seed + 50, seen=0.1), 62: gradient_of(n, seed=seed + 90, seen=2.0)}
    for region, g in gradients.items():
        bank.store(400, region, 300, {name: g[name] for name in like})
    if precision is not None:
        pack(bank)
    before = {c.region: c.g_hist for c in bank.candidates(401, 64, 300, like)}
    assert before.keys() == gradients.keys()
    changes = (
        lambda: model.densify_and_prune(0.5, 0.3, 1.0, None, streams),
        model.reset_opacity,
        lambda: prune(model, draws.uniform(len(model.get_xyz)) < 0.2),
        lambda: _with_dead_ones(model, draws) or relocate_and_grow(model, 1000, streams),
        lambda: model.densify_and_prune(0.7, 0.005, 1.0, 20, streams),
    )
    sizes, maps = [n], []
    for change in changes:
        maps.append(change())
        bank.remap_rows(maps[-1])
        _statistics(model, draws)
        sizes.append(len(model.get_xyz))
        now = {name: torch.zeros_like(p) for name, p in model.parameters_in_order().items() if name != "background"}
        after = {c.region: c.g_hist for c in bank.candidates(401, 64, 300, now)}
        assert all(same(after[region], _by_identity(model, before[region])) for region in gradients)
    added, dropped = [int(m.is_new.sum()) for m in maps], [n - int((~m.is_new).sum()) for n, m in zip(sizes, maps)]
    assert [k > 0 for k in added] == [True, False, False, True, True]
    assert [k > 0 for k in dropped] == [True, False, True, True, True]  # a relocated one's history, not its row


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.data())
def test_follow_is_carry_for_any_map(n, data) -> None:
    """Rows in any order, repeated, new or gone; none left as well."""
    rows = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.booleans()), max_size=12))
    index_map = IndexMap(torch.tensor([r for r, _ in rows], dtype=torch.int64), torch.tensor([new for _, new in rows], dtype=torch.bool))
    bank, g = bank_of(), {name: x for name, x in gradient_of(n, data.draw(st.integers(0, 99))).items() if name != "background"}
    bank.store(400, 64, 300, g)
    if data.draw(st.booleans()):
        pack(bank)
    bank.remap_rows(index_map)
    carried = {name: index_map.carry(x) for name, x in g.items()}
    assert same(bank.candidates(401, 64, 300, carried)[0].g_hist, carried)


def test_bytes_are_right_after_every_change() -> None:
    bank, n = bank_of(), 30
    for step, region in ((400, 64), (405, 65), (410, 64), (440, 62), (446, 66), (470, 70)):  # replaced, expired
        bank.store(step, region, 300, gradient_of(n, seed=step))
        bank.drop_expired(step)
        if step == 410:
            pack(bank)
        assert bank.nbytes() == sum(entry.nbytes for entry in bank.entries.values()) > 0
        bank.remap_rows(IndexMap.kept(torch.arange(n) > 0))
        n -= 1
        assert bank.nbytes() == sum(entry.nbytes for entry in bank.entries.values()) > 0
    assert sorted(bank.entries) == [62, 66, 70]


def test_all_gaussians_gone_and_an_empty_bank() -> None:
    bank, g = bank_of(), gradient_of(5)
    bank.remap_rows(IndexMap.identity(17))
    bank.store(400, 64, 300, g)
    bank.remap_rows(IndexMap.kept(torch.zeros(5, dtype=torch.bool)))
    nothing = {name: x[:0] if name != "background" else x for name, x in g.items()}
    assert same(bank.candidates(401, 64, 300, nothing)[0].g_hist, nothing)
    bank.store(401, 64, 300, nothing)
    assert same(bank.candidates(402, 64, 300, nothing)[0].g_hist, nothing)
