# SPDX-License-Identifier: Apache-2.0
"""Laws of densification: one index map moves everything; empty and total selections are defined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arguments import OptimizationParams
from scene.densify import IndexMap, moment_ratio, prune
from scene.gaussian_model import PER_GAUSSIAN, GaussianModel
from tests.drawn import Draws
from utils.general_utils import build_rotation
from utils.random_streams import RandomStreams

EXTENT, PERCENT_DENSE, THRESHOLD = 1.0, 0.1, 0.5
SMALL, LARGE = 0.05, 0.15  # scales on either side of percent_dense * extent


def _model(scales: list[float], gradients: list[float], opacities: list[float] | None = None) -> GaussianModel:
    """One Gaussian an entry, with distinct values everywhere, after one optimizer step."""
    n, draws = len(scales), Draws(1)
    model = GaussianModel(1)
    values = {name: draws.normal(n, *p.shape[1:]) for name, p in model.parameters_in_order().items()}
    opacity = torch.tensor(opacities or [0.5] * n)[:, None]
    values |= {"scaling": torch.log(torch.tensor(scales))[:, None].repeat(1, 3), "opacity": torch.logit(opacity)}
    model._set_parameters({name: values[name] for name in PER_GAUSSIAN})
    opt = OptimizationParams(percent_dense=PERCENT_DENSE)
    model.training_setup(opt)
    rates = {group["name"]: group["lr"] for group in model.optimizer.param_groups}
    for group in model.optimizer.param_groups:
        group["lr"] = 0.0  # makes moments and leaves the values
    for parameter in model.parameters_in_order().values():
        parameter.grad = draws.normal(*parameter.shape)
    model.optimizer.step()
    for group in model.optimizer.param_groups:
        group["lr"] = rates[group["name"]]
    model.xyz_gradient_accum = torch.tensor(gradients)[:, None] * 2
    model.denom = torch.full((n, 1), 2.0)
    return model


def _snapshot(model: GaussianModel) -> tuple[dict, dict]:
    values = {name: p.detach().clone() for name, p in model.parameters_in_order().items()}
    moments = {name: model.optimizer.state[p]["exp_avg"].clone() for name, p in model.parameters_in_order().items()}
    return values, moments


def _densify(model: GaussianModel, min_opacity: float = 0.005, max_screen: float | None = None) -> IndexMap:
    return model.densify_and_prune(THRESHOLD, min_opacity, EXTENT, max_screen, RandomStreams(0))


maps = st.integers(0, 6).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, max(n - 1, 0)), st.booleans()), max_size=8 if n else 0).map(
        lambda rows: (n, rows)
    )
)


def _index_map(rows) -> IndexMap:
    return IndexMap(torch.tensor([r[0] for r in rows], dtype=torch.long), torch.tensor([r[1] for r in rows], dtype=torch.bool))


@settings(deadline=None, max_examples=60)
@given(maps, st.data())
def test_then_is_one_carry_after_the_other(case, data) -> None:
    n, rows = case
    first, x = _index_map(rows), Draws(n).normal(n, 2)
    again = st.lists(st.tuples(st.integers(0, max(len(rows) - 1, 0)), st.booleans()), max_size=8 if rows else 0)
    second = _index_map(data.draw(again))
    assert torch.equal(first.then(second).carry(x), second.carry(first.carry(x)))
    assert torch.equal(first.then(second).inherit(x), second.inherit(first.inherit(x)))
    assert torch.equal(first.then(IndexMap.identity(len(first))).carry(x), first.carry(x))
    assert torch.equal(IndexMap.identity(n).then(first).source, first.source)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=9), st.booleans())
def test_everything_follows_the_one_map(flags, by_size) -> None:
    """Survivors keep values and moments, clones copy their source, new rows have no history; counts follow the rules."""
    scales = [LARGE if large else SMALL for large, _, _ in flags]
    gradients = [1.0 if high else 0.0 for _, high, _ in flags]
    opacities = [0.001 if faint else 0.5 for _, _, faint in flags]
    model = _model(scales, gradients, opacities)
    values, moments = _snapshot(model)
    index_map = _densify(model, max_screen=20 if by_size else None)
    too_large = [by_size and large and not high for large, high, _ in flags]  # LARGE > 0.1; children are smaller
    kept = [(2 if high else 1) * (not faint and not big) for (_, high, faint), big in zip(flags, too_large, strict=True)]
    assert torch.bincount(index_map.source, minlength=len(flags)).tolist() == kept
    for name, parameter in model.parameters_in_order().items():
        if name == "background":
            assert torch.equal(parameter, values[name])
            continue
        if name not in ("xyz", "scaling"):
            assert torch.equal(parameter, values[name][index_map.source])
        assert torch.equal(parameter[~index_map.is_new], index_map.inherit(values[name])[~index_map.is_new])
        state = model.optimizer.state[parameter]
        assert torch.equal(state["exp_avg"], index_map.carry(moments[name]))
        assert not state["exp_avg"][index_map.is_new].any() and int(state["step"]) == 1
        assert parameter.grad is None and parameter.is_leaf and parameter.requires_grad
    assert len(model.optimizer.state) == 7  # the replaced parameters' state is gone
    for statistic in (model.max_radii2D, model.xyz_gradient_accum, model.denom):
        assert len(statistic) == len(index_map) and not statistic.any()


def test_new_rows_have_no_statistics_whatever_their_source_has() -> None:
    model = _model([SMALL] * 3, [1.0, 2.0, 3.0])
    model.max_radii2D = torch.tensor([4.0, 5.0, 6.0])
    model.apply_index_map(IndexMap.appended(3, torch.tensor([1, 2])))
    assert model.max_radii2D.tolist() == [4.0, 5.0, 6.0, 0.0, 0.0]
    assert model.xyz_gradient_accum[:, 0].tolist() == [2.0, 4.0, 6.0, 0.0, 0.0]
    assert model.denom[:, 0].tolist() == [2.0, 2.0, 2.0, 0.0, 0.0]


def _stretch(model: GaussianModel, scales: tuple[float, float, float]) -> None:
    with torch.no_grad():
        model.parameters_in_order()["scaling"].copy_(torch.log(torch.tensor(scales)).expand(len(model.get_xyz), 3))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_split_children_lie_in_the_parents_shape(axis) -> None:
    """Needles about no axis of the world: in the parent's own frame the children spread along the needle alone."""
    count, scales = 200, [0.001] * 3
    scales[axis] = 0.3
    model = _model([LARGE] * count, [1.0] * count)
    _stretch(model, tuple(scales))
    parents, rotations = model.get_xyz.detach().clone(), build_rotation(model.get_raw_rotation.detach())
    index_map = _densify(model)
    offset = model.get_xyz.detach() - parents[index_map.source]
    local = (rotations[index_map.source].mT @ offset[:, :, None])[:, :, 0] / torch.tensor(scales)
    assert local.std(dim=0).tolist() == pytest.approx([1.0] * 3, abs=0.15)
    torch.testing.assert_close(model.get_scaling, (torch.tensor(scales) / 1.6).expand(2 * count, 3))


@pytest.mark.parametrize("scales", [(0.15, 0.001, 0.001), (0.001, 0.001, 0.15), (0.15, 0.15, 0.001)])
def test_the_largest_scale_decides_what_is_large(scales) -> None:
    """Of splitting, cloning and pruning alike."""
    for gradient, max_screen, left in ((1.0, None, 2), (0.0, None, 1), (0.0, 20, 0)):
        model = _model([SMALL], [gradient])
        _stretch(model, scales)
        index_map = _densify(model, max_screen=max_screen)
        assert index_map.source.tolist() == [0] * left and bool(index_map.is_new.all()) == (left != 1)


def test_clones_lie_on_their_source_and_split_children_around_their_parent() -> None:
    model = _model([SMALL, LARGE, SMALL], [1.0, 1.0, 0.0])
    values, _ = _snapshot(model)
    index_map = _densify(model)
    assert index_map.source.tolist() == [0, 2, 0, 1, 1]  # old ones left, the clone, two children
    assert index_map.is_new.tolist() == [False, False, True, True, True]
    assert torch.equal(model.get_xyz[2], values["xyz"][0])
    children = model.get_scaling[3:].detach()
    assert children.numpy() == pytest.approx(torch.full((2, 3), LARGE / 1.6).numpy())
    distance = (model.get_xyz[3:] - values["xyz"][1]).norm(dim=1)
    assert (distance > 0).all() and (distance < 6 * LARGE).all()


def test_split_children_follow_the_gaussian() -> None:
    """10000 children of one shape: mean and deviations along the turned axes are the parent's."""
    n = 5000
    model = _model([LARGE] * n, [1.0] * n)
    with torch.no_grad():
        model.get_xyz.zero_()
        model.get_raw_rotation.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(n, 4))  # x -> y
        model.parameters_in_order()["scaling"].copy_(torch.log(torch.tensor([0.4, 0.2, 0.1])).expand(n, 3))
    _densify(model)
    assert len(model.get_xyz) == 2 * n
    assert model.get_xyz.mean(dim=0).tolist() == pytest.approx([0, 0, 0], abs=0.02)
    assert model.get_xyz.std(dim=0).tolist() == pytest.approx([0.2, 0.4, 0.1], rel=0.03)


def test_nothing_selected_changes_nothing_but_statistics() -> None:
    model = _model([SMALL, LARGE], [0.0, 0.1])
    values, moments = _snapshot(model)
    index_map = _densify(model)
    assert index_map.source.tolist() == [0, 1] and not index_map.is_new.any()
    for name, parameter in model.parameters_in_order().items():
        assert torch.equal(parameter, values[name])
        assert torch.equal(model.optimizer.state[parameter]["exp_avg"], moments[name])


def test_gaussians_never_seen_are_not_densified() -> None:
    model = _model([SMALL], [0.0])
    model.denom.zero_()  # 0 / 0
    assert len(_densify(model)) == 1


def test_everything_pruned_leaves_a_model_that_still_works() -> None:
    model = _model([SMALL, LARGE], [1.0, 1.0])
    assert len(_densify(model, min_opacity=1.1)) == 0
    assert model.get_xyz.shape == (0, 3) and model.get_features.shape == (0, 4, 3)
    assert model.get_covariance().shape == (0, 6) and model.get_rotation.shape == (0, 4)
    model.optimizer.step()
    assert len(_densify(model)) == 0  # again, from nothing
    assert len(model.reset_opacity()) == 0


def test_densification_before_the_first_step_and_without_an_optimizer() -> None:
    model = _model([SMALL, LARGE], [1.0, 1.0])
    model.training_setup(OptimizationParams(percent_dense=PERCENT_DENSE))
    model.xyz_gradient_accum, model.denom = torch.ones(2, 1), torch.ones(2, 1)
    assert len(_densify(model)) == 4 and len(model.optimizer.state) == 0
    model.optimizer = None
    assert len(prune(model, torch.tensor([True, False, False, False]))) == 3


def test_screen_radius_prunes_nothing_in_densification() -> None:
    """Kept from upstream: cloning clears the radii first. prune itself carries them."""
    model = _model([SMALL, SMALL], [0.0, 0.0])
    model.max_radii2D = torch.tensor([100.0, 1.0])
    assert len(_densify(model, max_screen=20)) == 2
    model.max_radii2D = torch.tensor([100.0, 1.0])
    prune(model, torch.tensor([True, False]))
    assert model.max_radii2D.tolist() == [1.0]


def test_reset_lowers_opacity_and_forgets_its_moments_only() -> None:
    model = _model([SMALL, SMALL], [0.0, 0.0], opacities=[0.5, 0.002])
    _, moments = _snapshot(model)
    index_map = model.reset_opacity()
    assert index_map.source.tolist() == [0, 1] and not index_map.is_new.any()
    assert model.get_opacity[:, 0].tolist() == pytest.approx([0.01, 0.002], rel=1e-5)
    for name, parameter in model.parameters_in_order().items():
        state = model.optimizer.state[parameter]
        assert torch.equal(state["exp_avg"], torch.zeros_like(parameter) if name == "opacity" else moments[name])
        assert int(state["step"]) == 1


def test_equal_seeds_split_equally() -> None:
    first, second = (_model([LARGE] * 4, [1.0] * 4) for _ in range(2))
    _densify(first), _densify(second)
    assert torch.equal(first.get_xyz, second.get_xyz)
    assert first.get_xyz.isfinite().all()


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_a_budget_takes_the_largest_gradients(room) -> None:
    """Clones and splits alike are one more each; of equal gradients the first are taken."""
    model = _model([SMALL, LARGE, SMALL, LARGE, SMALL], [0.6, 0.9, 0.9, 0.7, 0.1])
    index_map = model.densify_and_prune(THRESHOLD, 0.005, EXTENT, None, RandomStreams(0), max_points=5 + room)
    copies = torch.bincount(index_map.source, minlength=5)
    assert (copies - 1).nonzero()[:, 0].tolist() == sorted([1, 2, 3, 0][:room]) and len(index_map) == 5 + min(room, 4)


def test_more_than_the_budget_are_left_as_they_are() -> None:
    model = _model([SMALL] * 3, [1.0] * 3)
    assert len(model.densify_and_prune(0.0, 0.005, EXTENT, None, RandomStreams(0), max_points=2)) == 3


def _after_gradients(gradients: torch.Tensor) -> GaussianModel:
    """A model whose positions had `gradients` [steps, N, 3]; the first half of its Gaussians is new after step 3."""
    steps, n, _ = gradients.shape
    model = _model([SMALL] * n, [1.0] * n)
    _forget(model, torch.ones(n, dtype=torch.bool))
    for step in range(steps):
        if step == 3:
            _forget(model, torch.arange(n) < n // 2)
        for name, parameter in model.parameters_in_order().items():
            parameter.grad = gradients[step] if name == "xyz" else torch.zeros_like(parameter)
        model.optimizer.step()
        model.steps_since_added += 1
    return model


def _forget(model: GaussianModel, is_new: torch.Tensor) -> None:
    model.apply_index_map(IndexMap(torch.arange(len(is_new)), is_new))


def test_the_moment_ratio_is_that_of_adam_written_out() -> None:
    """From the gradients since a Gaussian was added, without bias: 1 for equal ones."""
    gradients = Draws(6).normal(12, 6, 3)
    gradients[:, 0], gradients[:, 5] = gradients[0, 0].clone(), 0.0
    got = moment_ratio(_after_gradients(gradients))
    for k, g in enumerate(gradients.double().unbind(dim=1)):
        seen = g[3 if k < 3 else 0 :]
        ages = torch.arange(len(seen)).flip(0)[:, None]
        m, v = ((beta**ages * x).sum(dim=0) / (beta**ages).sum() for beta, x in ((0.9, seen), (0.999, seen**2)))
        want = float(m.norm() / v.sum().sqrt()) if k != 5 else 0.0
        assert float(got[k]) == pytest.approx(want, rel=1e-4), k
    assert float(got[0]) == pytest.approx(1.0, rel=1e-4) and float(got[1]) < 0.9


def test_gaussians_whose_moments_disagree_are_not_densified() -> None:
    gradients = torch.ones(12, 4, 3)
    gradients[::2, :2] = -1.0  # back and forth
    model = _after_gradients(gradients)
    model.xyz_gradient_accum, model.denom = torch.full((4, 1), 2.0), torch.ones(4, 1)
    index_map = model.densify_and_prune(THRESHOLD, 0.005, EXTENT, None, RandomStreams(0), least_ratio=0.5)
    assert torch.bincount(index_map.source).tolist() == [1, 1, 2, 2]
    assert len(_densify(_model([SMALL] * 4, [1.0] * 4))) == 8  # without the gate


def test_without_an_optimizer_no_moments_agree() -> None:
    model = _model([SMALL] * 2, [1.0] * 2)
    model.optimizer = None
    assert moment_ratio(model).tolist() == [0.0, 0.0]
