# SPDX-License-Identifier: Apache-2.0
"""Laws of the orthogonal projection, Eq. (10), and of the fused gradient."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cograd.fusion import GradientSum, added, flat, fuse, inner, norm, project_orthogonal
from tests.drawn import Draws

SHAPES = {"xyz": (50, 3), "f_dc": (50, 1, 3), "f_rest": (50, 0, 3), "opacity": (50, 1), "background": (3, 1, 1)}


def _gradient(seed: int, scale: float = 1.0, shapes=None) -> dict[str, torch.Tensor]:
    draws = Draws(seed)
    return {name: scale * draws.normal(*shape) for name, shape in (shapes or SHAPES).items()}


def _vector(g) -> torch.Tensor:
    return torch.cat([x.reshape(-1).double() for x in g.values()])


def _scaled(g, factor):
    return {name: factor * x for name, x in g.items()}


def test_projection_by_hand() -> None:
    g_main, g_aux = {"x": torch.tensor([3.0, 0.0]), "y": torch.tensor([4.0])}, {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([-2.0])}
    share = (3.0 - 8.0) / (25.0 + 1e-8)  # one vector of both tensors
    g_proj = project_orthogonal(g_aux, g_main)
    assert g_proj["x"].tolist() == pytest.approx([1 - 3 * share, 2.0]) and g_proj["y"].tolist() == pytest.approx([-2 - 4 * share])


@pytest.mark.parametrize("projection", ["vector", "group"])
def test_a_square_that_is_kept_is_that_of_its_gradient(projection) -> None:
    """A gradient that was g_main of an earlier step is compared as if it were seen for the first time."""
    g_main, g_next = _gradient(1), _gradient(2)
    kept = flat(g_main)
    fuse(kept, [(0.5, g_next)], projection=projection)
    norm(kept)
    for _ in range(2):
        known, new = (fuse(g_next, [(1.0, g)], projection=projection) for g in (kept, g_main))
        assert known.cosines == new.cosines and known.main_norm == new.main_norm
    assert known.cosines[0] == pytest.approx(inner(g_main, g_next) / norm(g_main) / norm(g_next), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(-3, 3), st.floats(-0.999, 0.999))
def test_projection_is_orthogonal_to_1e_6_relative(seed, log_main, log_aux, mixed_in) -> None:
    """delta = 1e-8 itself leaves delta / |g_main|^2, 1e-4 at |g_main| = .01: it is left out here, and checked next."""
    g_main = _gradient(seed, 10**log_main)
    own = _gradient(seed + 1, 10**log_aux)
    g_aux = {name: own[name] + mixed_in * 10 ** (log_aux - log_main) * g_main[name] for name in own}
    g_proj = project_orthogonal(g_aux, g_main, delta=0.0)
    assert abs(float(_vector(g_proj) @ _vector(g_main))) < 1e-6 * norm(g_proj) * norm(g_main)


def test_default_delta_is_orthogonal_where_gradients_are_not_tiny() -> None:
    g_main, g_aux = _gradient(0), _gradient(1)
    assert abs(inner(project_orthogonal(g_aux, g_main), g_main)) < 1e-6 * norm(g_aux) * norm(g_main)
    tiny = _scaled(g_main, 1e-8)  # |g_main|^2 far below delta: the projection does nothing
    assert torch.allclose(_vector(project_orthogonal(g_aux, tiny)), _vector(g_aux), atol=1e-6)


def test_no_main_gradient_leaves_the_auxiliary_one() -> None:
    g_aux, nothing = _gradient(0), _scaled(_gradient(0), 0.0)
    for projection in ("vector", "group"):
        for delta in (0.0, 1e-8):
            assert torch.equal(_vector(project_orthogonal(g_aux, nothing, delta, projection)), _vector(g_aux))
    result = fuse(nothing, [(1.0, g_aux)])
    assert result.cosines == (0.0,) and torch.equal(_vector(result.g_fused), _vector(g_aux))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(-4, 4))
def test_scaling_the_history_scales_the_projection(seed, factor) -> None:
    g_main, g_aux = _gradient(seed), _gradient(seed + 1)
    one, other = project_orthogonal(g_aux, g_main), project_orthogonal(_scaled(g_aux, factor), g_main)
    assert torch.allclose(_vector(other), factor * _vector(one), atol=1e-5)


def test_without_candidates_fused_is_main_itself() -> None:
    g_main = _gradient(0)
    result = fuse(g_main, [])
    assert result.g_fused is g_main and result.main_norm is result.fused_norm is None


@pytest.mark.parametrize("projection", ["vector", "group"])
@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.5, 0.5, 0.5)])
def test_identical_gradients_fuse_to_main(projection, weights) -> None:
    g_main = _gradient(3)
    result = fuse(g_main, [(w, g_main) for w in weights], projection=projection)
    assert (_vector(result.g_fused) - _vector(g_main)).norm() < 1e-6 * norm(g_main)
    assert result.cosines == pytest.approx((1.0,) * len(weights), abs=1e-6)


def test_fused_is_the_sum_and_the_numbers_are_right() -> None:
    g_main, hists = _gradient(0), [_gradient(1), _gradient(2)]
    m, result = _vector(g_main), fuse(g_main, [(1.0, hists[0]), (0.5, hists[1])])
    expected = m.clone()
    for w, g in zip((1.0, 0.5), hists):
        a = w * _vector(g)
        expected += a - (a @ m) / (m @ m + 1e-8) * m
    assert (_vector(result.g_fused) - expected).norm() < 1e-6 * expected.norm()
    assert result.fused_norm == pytest.approx(float(expected.norm()), rel=1e-6)
    assert result.cosines == pytest.approx([float(_vector(g) @ m / (_vector(g).norm() * m.norm())) for g in hists], abs=1e-6)
    assert result.main_norm == pytest.approx(float(m.norm()), rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.lists(st.sampled_from([1.0, 0.5, 0.25]), min_size=1, max_size=5), st.sampled_from(["vector", "group"]))
def test_fused_is_main_and_the_projections(seed, weights, projection) -> None:
    g_main, hists = _gradient(seed), [_gradient(seed + 1 + k) for k in range(len(weights))]
    expected = _vector(g_main)
    for w, g_hist in zip(weights, hists):
        expected = expected + _vector(project_orthogonal(_scaled(g_hist, w), g_main, projection=projection))
    fused = _vector(fuse(g_main, list(zip(weights, hists)), projection=projection).g_fused)
    assert (fused - expected).norm() < 1e-6 * expected.norm()


def test_fusing_never_shrinks_main() -> None:
    """Whatever is added is orthogonal: <g_fused, g_main> stays |g_main|^2."""
    g_main = _gradient(0)
    g_fused = fuse(g_main, [(1.0, _scaled(g_main, -5.0)), (0.5, _gradient(7, 10.0))]).g_fused
    assert inner(g_fused, g_main) == pytest.approx(inner(g_main, g_main), rel=1e-5)


def test_group_projection_is_orthogonal_in_each_group() -> None:
    g_main, g_aux = _gradient(0), _gradient(1)
    g_main["opacity"] *= 1e-5  # |opacity|^2 is below delta, and 1e-12 of the whole
    g_proj = project_orthogonal(g_aux, g_main, projection="group")
    for name, g in g_proj.items():
        if g.numel():
            a, b = g.double().flatten(), g_main[name].double().flatten()
            assert abs(float(a @ b)) < 1e-6 * float(g_aux[name].double().norm() * b.norm())
    assert not torch.allclose(g_proj["opacity"], project_orthogonal(g_aux, g_main)["opacity"])


@pytest.mark.parametrize("made", [dict, flat], ids=["tensors", "flat"])
def test_views_add_up_whatever_each_of_them_moves(made) -> None:
    a, b = _gradient(0), _gradient(1)
    both = added(made(a), made(b))
    assert list(both) == list(a) and all(torch.equal(both[name], a[name] + b[name]) for name in a)
    for one, other in ((a, b), (b, a)):  # a name that one view has no gradient for
        fewer = {name: x for name, x in other.items() if name != "background"}
        total = added(made(one), made(fewer))
        assert torch.equal(total["background"], one["background"]) and torch.equal(total["xyz"], a["xyz"] + b["xyz"])
        total = added(made(fewer), made(one))
        assert torch.equal(total["background"], one["background"]) and torch.equal(total["xyz"], a["xyz"] + b["xyz"])


@pytest.mark.parametrize("made", [dict, flat], ids=["tensors", "flat"])
@pytest.mark.parametrize("lacking", [None, 0, 1, 3], ids=["all alike", "first", "second", "last"])
def test_a_sum_changes_none_of_its_gradients(made, lacking) -> None:
    """Nor does it when one of them moves fewer tensors; of one gradient it is that gradient."""
    drawn = [_gradient(seed) for seed in range(4)]
    if lacking is not None:
        del drawn[lacking]["background"]
    gradients = [made(g) for g in drawn]
    copies, total = [{name: x.clone() for name, x in g.items()} for g in drawn], GradientSum()
    for g in gradients:
        total.add(g)
        assert g is not gradients[0] or total.total is g
    assert total.total is not None
    for name, x in total.total.items():
        assert torch.equal(x, functools.reduce(torch.add, [g[name] for g in copies if name in g]))
    assert all(torch.equal(x, copy[name]) for g, copy in zip(gradients, copies) for name, x in g.items())


def test_inputs_stay_as_they_are() -> None:
    g_main, g_hist = _gradient(0), _gradient(1)
    copies = _vector(g_main).clone(), _vector(g_hist).clone()
    fuse(g_main, [(0.5, g_hist)])
    assert torch.equal(_vector(g_main), copies[0]) and torch.equal(_vector(g_hist), copies[1])


@pytest.mark.parametrize(("scale", "n"), [(1.0, 2**25 + 5), (1e-30, 1001), (1e-12, 1001), (1e12, 1001), (1e30, 1001)])
def test_inner_products_of_many_numbers_of_any_size(scale, n) -> None:
    """A running float32 sum would stall at 2^24 ones; squares of 1e-30 and 1e30 underflow and overflow float32."""
    x = {"x": torch.full((n,), scale)}
    assert inner(x, x) == pytest.approx(n * float(torch.tensor(scale)) ** 2, rel=1e-6)
    x["x"][n // 2 + 1 :] *= -1
    x["x"][0] = 0
    ones = {"x": torch.ones(n)}
    assert abs(inner(x, ones)) <= 1e-6 * norm(x) * norm(ones)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_types_are_those_of_the_input(dtype) -> None:
    g = {"x": torch.ones(4, dtype=dtype)}
    assert fuse(g, [(0.5, {"x": torch.arange(4).to(dtype)})]).g_fused["x"].dtype == dtype


@pytest.mark.parametrize("projection", ["vector", "group"])
@pytest.mark.parametrize("hists", [1, 2])
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_each_tensor_of_a_result_has_its_own_type(narrow, hists, projection) -> None:
    """Mixed precision: as if all were of the wider type, rounded once at the end."""
    wide = [_gradient(seed) for seed in range(1 + hists)]
    mixed = [{name: x.to(narrow) if name == "f_dc" else x for name, x in g.items()} for g in wide]
    exact = [{name: x.float() for name, x in g.items()} for g in mixed]
    for run in (
        lambda main, *others: fuse(main, [(0.5, g) for g in others], projection=projection).g_fused,
        lambda main, *others: project_orthogonal(others[0], main, projection=projection),
    ):
        for given_as in (dict, flat):
            result, expected = run(*map(given_as, mixed)), run(*exact)
            assert {name: x.dtype for name, x in result.items()} == {name: x.dtype for name, x in mixed[0].items()}
            assert all(torch.equal(x, expected[name].to(x.dtype)) for name, x in result.items())
    assert {name: x.dtype for name, x in flat(mixed[0]).items()} == {name: x.dtype for name, x in mixed[0].items()}


def test_gradients_of_other_parameters_are_refused() -> None:
    g = {"xyz": torch.ones(3, 2)}
    for other in ({"xyz": torch.ones(2, 3)}, {"rgb": torch.ones(3, 2)}, {}):
        with pytest.raises(ValueError, match="do not fit; pass the same parameters each time"):
            fuse(g, [(1.0, other)])
    assert math.isclose(inner({}, {}), 0.0)


@pytest.mark.parametrize("projection", ["vector", "group"])
def test_a_gpus_numbers_are_read_twice_a_view_and_are_the_same(monkeypatch, projection) -> None:
    """The way of devices whose numbers are waited for, here on the CPU: once for all products, once for |g_fused|."""
    from cograd import fusion

    g_main, candidates = _gradient(0), [(0.5**k, _gradient(k)) for k in range(1, 5)]
    expected = fuse(g_main, candidates, projection=projection)
    reads = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(fusion, "ON_HOST", ())
    monkeypatch.setattr(fusion, "DEVICE_CHUNK", 37)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (reads.append(self.numel()), real(self))[1])
    stored = [(w, flat(g)) for w, g in candidates]
    result = fuse(g_main, stored, projection=projection)
    assert len(reads) == 2
    torch.testing.assert_close(_vector(result.g_fused), _vector(expected.g_fused), rtol=1e-5, atol=1e-6)
    numbers = (result.main_norm, result.fused_norm, *result.cosines)
    assert numbers == pytest.approx((expected.main_norm, expected.fused_norm, *expected.cosines), rel=1e-6, abs=1e-7)
