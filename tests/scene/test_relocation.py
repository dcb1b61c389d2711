# SPDX-License-Identifier: Apache-2.0
"""3DGS-MCMC's equations against plain references, and what relocation and growth move."""

import math

import numpy as np
import pytest
import torch

from arguments import OptimizationParams
from scene.densify import IndexMap
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from scene.relocation import (
    DEAD_OPACITY,
    add_opacity_term,
    add_position_noise,
    draw_by_opacity,
    grow,
    relocate,
    relocate_and_grow,
    shared_shape,
)
from tests.drawn import Draws
from utils.general_utils import build_covariance
from utils.random_streams import RandomStreams

UNCHANGED = ("xyz", "f_dc", "f_rest", "rotation")
CASES = [(o, n) for o in (0.006, 0.1, 0.5, 0.9, 0.999) for n in (1, 2, 3, 10, 51)]


def _model(opacities: list[float]) -> GaussianModel:
    """One Gaussian an entry, distinct everywhere, with moments and statistics that are nowhere 0."""
    n, draws = len(opacities), Draws(4)
    model = GaussianModel(1)
    values = {name: draws.normal(n, *p.shape[1:]) for name, p in model.parameters_in_order().items()}
    values["opacity"] = torch.logit(torch.tensor(opacities))[:, None]
    model._set_parameters({name: values[name] for name in PER_GAUSSIAN})
    model.training_setup(OptimizationParams())
    for group in model.optimizer.param_groups:
        group["lr"] = 0.0  # makes moments and leaves the values
    for parameter in model.parameters_in_order().values():
        parameter.grad = torch.ones_like(parameter)
    model.optimizer.step()
    model.steps_since_added += 1
    return model


def _values(model: GaussianModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.parameters_in_order().items() if name != "background"}


def _shared(opacity: float, copies: int) -> tuple[float, float]:
    (new,), (shrink,) = shared_shape(torch.tensor([opacity], dtype=torch.float64), torch.tensor([copies]))
    return float(new), float(shrink)


@pytest.mark.parametrize(("opacity", "copies"), CASES)
def test_shared_shape_is_equation_9_as_printed(opacity, copies) -> None:
    new = 1 - (1 - opacity) ** (1 / copies)
    total = sum(
        math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1) for i in range(1, copies + 1) for k in range(i)
    )
    assert _shared(opacity, copies) == pytest.approx((new, opacity / total), rel=1e-6)


@pytest.mark.parametrize(("opacity", "copies"), CASES)
def test_copies_together_look_like_the_one(opacity, copies) -> None:
    """Composited, they are as opaque in the centre, and as much in all along a line through it."""
    new, shrink = _shared(opacity, copies)
    x = np.linspace(-12, 12, 20001)
    one = opacity * np.exp(-(x**2) / 2)
    many = 1 - (1 - new * np.exp(-((x / shrink) ** 2) / 2)) ** copies
    assert many.max() == pytest.approx(opacity, rel=1e-6) and many.sum() == pytest.approx(one.sum(), rel=1e-4)


def test_copies_beyond_what_the_sum_can_count_are_finite() -> None:
    assert _shared(0.9, 10_000) == _shared(0.9, 51)
    assert all(map(math.isfinite, _shared(1.0, 51)))


def test_rows_are_drawn_by_opacity_among_the_live() -> None:
    opacity, count = torch.tensor([0.9, 0.1, 0.0, 0.3, 0.6]), 20_000
    is_alive = torch.tensor([False, True, True, True, True])
    drawn = torch.bincount(draw_by_opacity(opacity, is_alive, count, RandomStreams(3)), minlength=5)
    want = torch.tensor([0.0, 0.1, 0.0, 0.3, 0.6])
    assert drawn[0] == drawn[2] == 0 and int(drawn.sum()) == count
    assert bool(((drawn / count - want).abs() <= 5 * (want * (1 - want) / count).sqrt()).all())  # five deviations
    smallest = torch.tensor([0.5, 2.0**-24])  # so that every place is 0, where the live one's begins
    assert draw_by_opacity(smallest, torch.tensor([False, True]), 3, RandomStreams(3)).tolist() == [1, 1, 1]


def test_the_dead_become_copies_and_all_else_stays() -> None:
    model = _model([0.004, 0.5, 0.001, 0.8, 0.3, 0.6, 0.7])
    before, is_dead = _values(model), (model.get_opacity[:, 0] <= DEAD_OPACITY).detach()
    index_map = relocate(model, RandomStreams(0))
    after = _values(model)
    drawn = index_map.source[is_dead]
    copies = torch.bincount(drawn, minlength=7) + 1
    assert len(index_map) == 7 and not bool(is_dead[drawn].any())
    assert torch.equal(index_map.source[~is_dead], torch.arange(7)[~is_dead])
    assert torch.equal(index_map.is_new, is_dead | (copies > 1)) and not bool(index_map.is_new.all())
    for name in UNCHANGED:
        assert torch.equal(after[name], before[name][index_map.source])
    kept = ~index_map.is_new
    for name in ("opacity", "scaling"):
        assert torch.equal(after[name][kept], before[name][kept])
    rows = index_map.source[index_map.is_new]
    opacity, shrink = shared_shape(torch.sigmoid(before["opacity"][rows, 0]), copies[rows])
    torch.testing.assert_close(model.get_opacity[index_map.is_new, 0].double(), opacity, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        after["scaling"][index_map.is_new].double(), before["scaling"][rows].double() + shrink.log()[:, None], rtol=0, atol=1e-5
    )


def test_each_of_the_dead_is_drawn_for_itself() -> None:
    index_map = relocate(_model([0.001] * 30 + [0.5] * 30), RandomStreams(0))
    assert torch.equal(index_map.source[:30], draw_by_opacity(torch.full((60,), 0.5), torch.arange(60) >= 30, 30, RandomStreams(0)))
    assert len(index_map.source[:30].unique()) > 12  # 19 are expected of equal ones; one of all copies would be 1


def test_copies_and_what_they_are_copies_of_have_no_history() -> None:
    model = _model([0.004, 0.5, 0.001, 0.8, 0.3])
    index_map = relocate_and_grow(model, 9, RandomStreams(0))
    assert len(index_map) == 6 and 0 < int(index_map.is_new.sum()) < 6
    moments = model.optimizer.state[model.get_xyz]["exp_avg"]
    assert torch.equal(moments.any(dim=1), ~index_map.is_new)
    assert torch.equal(model.steps_since_added[:, 0] == 0, index_map.is_new)


@pytest.mark.parametrize(("count", "budget", "want"), [(40, 100, 42), (41, 100, 44), (99, 100, 100), (100, 100, 100), (100, 50, 100)])
def test_the_set_grows_by_a_twentieth_up_to_its_budget(count, budget, want) -> None:
    model = _model([0.5] * count)
    index_map = grow(model, budget, RandomStreams(0))
    assert len(model.get_xyz) == len(index_map) == want
    assert torch.equal(index_map.source[:count], torch.arange(count))


def test_a_copy_is_alive() -> None:
    """Of a Gaussian just above the limit; Eq. (9) alone would have two dead ones of it."""
    model = _model([0.0051, 0.001])
    relocate(model, RandomStreams(0))
    assert bool((model.get_opacity >= DEAD_OPACITY * (1 - 1e-5)).all())


@pytest.mark.parametrize("count", [0, 3])
def test_without_a_live_one_nothing_moves(count) -> None:
    model = _model([0.001] * count)
    index_map = relocate_and_grow(model, 10, RandomStreams(0))
    assert torch.equal(index_map.source, IndexMap.identity(count).source) and not index_map.is_new.any()


def test_noise_is_the_papers() -> None:
    model = _model([0.004, 0.02, 0.5, 0.99])
    before, streams = model.get_xyz.detach().clone(), RandomStreams(8)
    eta = RandomStreams(8).randn(4, 3).double().numpy()
    add_position_noise(model, 0.01, 30.0, streams)
    xx, xy, xz, yy, yz, zz = build_covariance(model.get_scaling, model.get_raw_rotation).detach().double().numpy().T
    sigma = np.moveaxis(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]), -1, 0)
    opacity = model.get_opacity.detach().double().numpy()
    want = 0.01 * 30.0 / (1 + np.exp(100 * (opacity - 0.005))) * np.einsum("nij,nj->ni", sigma, eta)
    moved = (model.get_xyz.detach() - before).double().numpy()
    np.testing.assert_allclose(moved, want, rtol=1e-3, atol=1e-5 * np.abs(want).max())
    assert np.abs(moved[0]).max() > 0.01 and np.abs(moved[3]).max() < 1e-6


def test_the_opacity_term_is_the_gradient_of_the_mean_opacity() -> None:
    model = _model([0.004, 0.2, 0.9])
    logits = model.parameters_in_order()["opacity"]
    logits.grad = torch.full_like(logits, 2.0)
    (want,) = torch.autograd.grad(0.7 * model.get_opacity.mean(), logits)
    add_opacity_term(model, 0.7)
    torch.testing.assert_close(logits.grad, 2.0 + want)
    logits.grad = None
    add_opacity_term(model, 0.7)
    assert logits.grad is None  # a step without gradient
