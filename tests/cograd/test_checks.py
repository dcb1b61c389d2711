# SPDX-License-Identifier: Apache-2.0
"""What a trainer passes in is refused at the first step, before anything of it is taken in."""

import dataclasses
import types

import pytest
import torch

from arguments import CoGradParams
from cograd import CoGrad
from cograd.fusion import flat
from cograd.gradient_bank import PackedGradient, PlainGradient
from guidance.sd_step import scaled_linear_alphas
from tests.drawn import Draws

ALPHAS = scaled_linear_alphas()
ONE_REGION_IS_TWELVE = CoGradParams(azimuth_levels=2, max_step_share=0.9, max_t_difference=900)
STEPS, ROWS = 1000, 20


def _cograd(fixed_names=("net",), w=None, **settings) -> CoGrad:
    return CoGrad(dataclasses.replace(ONE_REGION_IS_TWELVE, **settings), ALPHAS, STEPS, fixed_names=fixed_names, w=w)


def _gradient(seed: int = 0, n: int = ROWS) -> dict[str, torch.Tensor]:
    draws = Draws(seed)
    return {"xyz": draws.normal(n, 3), "alpha": draws.normal(n), "net": draws.normal(5, 7)}


def _filled(packed: bool = False) -> CoGrad:
    """With a bank of two gradients, of step 300."""
    cograd = _cograd(bank_limit_mb=1)
    if packed:
        cograd.bank.limit_bytes = 500
    cograd.observe(300, torch.tensor([0, 1]), torch.tensor([500, 500]), torch.ones(2), [_gradient(0), _gradient(1)])
    assert {type(entry) for entry in cograd.bank.entries.values()} == {PackedGradient if packed else PlainGradient}
    assert len(cograd.bank) == 2
    return cograd


def _frozen(tree) -> object:
    """A state to compare: the numbers of it."""
    if isinstance(tree, dict):
        return {name: _frozen(part) for name, part in tree.items()}
    return tree.tolist() if isinstance(tree, torch.Tensor) else tree


BAD_GRADIENTS = {
    "a name that is not fixed": (lambda g: {**g, "bg": torch.ones(3)}, r"'bg': \(3,\)}; expected one number of rows: .* fixed_names of CoGrad\(...\), which has \['net'\]"),
    "a number": (lambda g: {**g, "scale": torch.tensor(1.0)}, r"'scale': \(\)}; expected one number of rows"),
    "only a number": (lambda g: {"scale": torch.tensor(1.0)}, r"'scale': \(\)}; expected one number of rows"),
    "None": (lambda g: {**g, "unused": None}, r"the gradient of 'unused' is None; expected a dense tensor .* torch.zeros_like"),
    "None where fixed": (lambda g: {**g, "net": None}, r"the gradient of 'net' is None; expected a dense tensor"),
    "integers": (lambda g: {name: x.long() for name, x in g.items()}, r"'xyz' is a tensor \(20, 3\) of int64; expected a dense tensor of floating point"),
    "sparse": (lambda g: {**g, "xyz": g["xyz"].to_sparse()}, r"'xyz' is a sparse tensor \(20, 3\) of float32"),
    "two devices": (lambda g: {**g, "xyz": g["xyz"].to("meta")}, r"gradients are on cpu and meta; expected one device"),
    "a tensor": (lambda g: g["xyz"], r"a gradient is a tensor \(20, 3\) of float32; expected tensors by name"),
    "a list": (lambda g: list(g.values()), r"a gradient is a list; expected tensors by name"),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS)
def test_a_gradient_that_no_step_could_fuse_is_refused_at_the_first(bad) -> None:
    """Step 1 of 1000: fusion begins at step 200."""
    cograd, (change, message) = _cograd(), BAD_GRADIENTS[bad]
    before = _frozen(cograd.state_dict())
    with pytest.raises(ValueError, match=message):
        cograd.fuse(1, 0, 500, change(_gradient()))
    with pytest.raises(ValueError, match=message):
        cograd.observe(1, torch.tensor([0, 1]), torch.tensor([500, 500]), torch.ones(2), [_gradient(), change(_gradient())])
    assert _frozen(cograd.state_dict()) == before


def test_a_flat_gradient_is_looked_at_too() -> None:
    with pytest.raises(ValueError, match=r"'bg': \(3,\)}; expected one number of rows"):
        _cograd().fuse(1, 0, 500, flat({**_gradient(), "bg": torch.ones(3)}))


def test_gradients_of_other_numbers_of_rows_are_refused_where_no_neighbour_is_fused_too() -> None:
    cograd, message = _filled(), r"a gradient has 25 rows; expected 20, .*: call remap_rows\(index_map\)"
    with pytest.raises(ValueError, match=message):
        cograd.fuse(301, 9, 1, _gradient(n=25))  # too far away in timesteps
    with pytest.raises(ValueError, match=message):
        _cograd().observe(1, torch.tensor([0, 1]), torch.tensor([5, 5]), torch.ones(2), [_gradient(), _gradient(n=25)])


def _map(source, is_new) -> types.SimpleNamespace:
    return types.SimpleNamespace(source=source, is_new=is_new)


OLD, NONE_NEW = torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.bool)
BAD_MAPS = {
    "negative": (OLD - 1, NONE_NEW, r"index_map.source\[0\] is -1; expected a row of 0 to 19"),
    "too large": (OLD + 3, NONE_NEW, r"index_map.source\[17\] is 20; expected a row of 0 to 19"),
    "list": (OLD.tolist(), NONE_NEW, r"index_map.source is a list; expected integers \[M\]"),
    "no source": (None, NONE_NEW, r"index_map.source is None; expected integers"),
    "float": (OLD.float(), NONE_NEW, r"index_map.source is a tensor \(20,\) of float32; expected integers"),
    "bool": (OLD > 3, NONE_NEW, r"index_map.source is a tensor \(20,\) of bool; expected integers"),
    "2-D": (OLD[:, None], NONE_NEW, r"index_map.source is a tensor \(20, 1\) of int64; expected integers"),
    "shorter": (OLD, NONE_NEW[:15], r"index_map.is_new is a tensor \(15,\) of bool; expected bools \(20,\)"),
    "longer": (OLD, NONE_NEW.repeat(2), r"index_map.is_new is a tensor \(40,\) of bool; expected bools \(20,\)"),
    "numbers": (OLD, NONE_NEW.long(), r"index_map.is_new is a tensor \(20,\) of int64; expected bools"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bad", BAD_MAPS)
def test_a_map_of_rows_that_is_none_is_refused_and_nothing_is_moved(bad, packed) -> None:
    source, is_new, message = BAD_MAPS[bad]
    cograd = _filled(packed)
    before = _frozen(cograd.state_dict())
    with pytest.raises(ValueError, match=message):
        cograd.remap_rows(_map(source, is_new))
    assert _frozen(cograd.state_dict()) == before
    if "expected a row" not in message:
        with pytest.raises(ValueError, match=message):  # before there is anything to move, too
            _cograd().remap_rows(_map(source, is_new))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("of_new", [-1, 0, 10**6])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_the_source_of_a_new_row_is_not_read(dtype, of_new, packed) -> None:
    if of_new > torch.iinfo(dtype).max:
        return
    cograd = _filled(packed)
    source = torch.cat([OLD.flip(0), torch.full((5,), of_new)]).to(dtype)
    expected = {name: x if name == "net" else torch.cat([x.flip(0), x.new_zeros(5, *x.shape[1:])]) for name, x in _gradient(1).items()}
    cograd.remap_rows(_map(source, torch.arange(25) >= ROWS))
    (found,) = [c.g_hist for c in cograd.bank.candidates(301, 1, 500, _gradient(n=25)) if c.region == 1]
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_new_rows_after_all_have_gone(packed) -> None:
    cograd = _filled(packed)
    cograd.remap_rows(_map(OLD[:0], NONE_NEW[:0]))
    cograd.remap_rows(_map(torch.full((4,), -1), torch.ones(4, dtype=torch.bool)))
    assert cograd.fuse(301, 0, 500, _gradient(n=4)).cosines == ()


PLACE = (torch.tensor([0, 1]), torch.tensor([500, 400]), torch.ones(2), [_gradient(0), _gradient(1)])
BAD_VIEWS = {
    "regions as a list": (0, [0, 1], r"regions is a list; expected a tensor \[B\] of integers"),
    "regions as floats": (0, torch.ones(2), r"regions is a tensor \(2,\) of float32; expected a tensor \[B\] of integers"),
    "a region beyond": (0, torch.tensor([0, 99]), r"regions\[1\] is 99; expected the index of a region, a whole number from 0 to 11"),
    "a negative region": (0, torch.tensor([0, -1]), r"regions\[1\] is -1; expected the index of a region"),
    "t as a list": (1, [500, 400], r"t is a list; expected a tensor \[B\] of integers"),
    "a timestep beyond": (1, torch.tensor([1, 5000]), r"t\[1\] is 5000; expected a timestep of the diffusion model, a whole number from 0 to 999"),
    "losses as a list": (2, [0.1, 0.2], r"losses is a list; expected a tensor \[B\], the loss of each view"),
    "losses as a column": (2, torch.ones(2, 1), r"losses is a tensor \(2, 1\) of float32; expected a tensor \[B\]"),
    "one loss": (2, torch.ones(()), r"losses is a tensor \(\) of float32"),
    "fewer losses": (2, torch.ones(1), r"'losses': 1, 'main_gradients': 2}; expected one length"),
    "a negative loss": (2, torch.tensor([0.5, -1.0]), r"the loss of region 1 is -1; expected 0 or more"),
    "fewer gradients": (3, [_gradient()], r"'losses': 2, 'main_gradients': 1}; expected one length"),
}


@pytest.mark.parametrize("signal", ["residual", "weighted", "t_normalised"])
@pytest.mark.parametrize("bad", BAD_VIEWS)
def test_views_that_are_refused_leave_nothing(bad, signal) -> None:
    """A repaired call afterwards counts each view once."""
    place, value, message = BAD_VIEWS[bad]
    cograd = _cograd(loss_signal=signal)
    before = _frozen(cograd.state_dict())
    with pytest.raises(ValueError, match=message):
        cograd.observe(300, *PLACE[:place], value, *PLACE[place + 1 :])
    assert _frozen(cograd.state_dict()) == before
    cograd.observe(300, *PLACE)
    assert cograd.history.n.tolist() == [1, 1] + [0] * 10 and len(cograd.bank) == 2


@pytest.mark.parametrize("step", [0, -1, STEPS + 1, 1.5, None])
def test_steps_count_from_one_to_the_last(step) -> None:
    cograd, generator = _filled(), torch.Generator()
    before = _frozen(cograd.state_dict()), generator.get_state().tolist()
    message = f"step is {step}; expected the number of a step of the run, a whole number from 1 to 1000"
    for call in (lambda: cograd.plan(step, 2, generator), lambda: cograd.fuse(step, 0, 500, _gradient()), lambda: cograd.observe(step, *PLACE)):
        with pytest.raises(ValueError, match=message):
            call()
    assert (_frozen(cograd.state_dict()), generator.get_state().tolist()) == before


@pytest.mark.parametrize("views", [0, -1, 13, 2.0])
def test_a_plan_that_is_refused_draws_nothing(views) -> None:
    generator = torch.Generator()
    before = generator.get_state().tolist()
    with pytest.raises(ValueError, match=f"views is {views}; expected .* different regions, a whole number from 1 to 12"):
        _cograd().plan(1, views, generator)
    assert generator.get_state().tolist() == before
    with pytest.raises(ValueError, match=r"generator is None; expected torch.Generator\(\).manual_seed"):
        _cograd().plan(1, 2, None)


@pytest.mark.parametrize(
    ("region", "t", "message"),
    [
        (99, 500, "region is 99; expected the index of a region, a whole number from 0 to 11"),
        (-1, 500, "region is -1; expected the index of a region"),
        (torch.tensor([0, 1]), 500, r"region is tensor\(\[0, 1\]\); expected the index of a region"),
        (0, 5000, "t is 5000; expected a timestep of the diffusion model"),
        (0, torch.tensor([500, 400]), r"t is tensor\(\[500, 400\]\); expected a timestep"),
    ],
)
def test_a_view_is_of_one_region_and_timestep(region, t, message) -> None:
    for cograd in (_cograd(), _filled()):
        with pytest.raises(ValueError, match=message):
            cograd.fuse(301, region, t, _gradient())


def test_poses_are_of_regions_that_there_are() -> None:
    for regions in ([0, 1], torch.tensor([0, 12]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="the index of a region"):
            _cograd().grid.sample_poses(regions, torch.Generator())


@pytest.mark.parametrize("w", [torch.ones(5), torch.ones(1000, 1), -torch.ones(1000), torch.full((1000,), torch.nan), torch.ones(0)])
def test_a_weight_for_each_timestep_or_none(w) -> None:
    with pytest.raises(ValueError, match=r"w is .*; expected \(1000,\), a weight of 0 or more for each timestep"):
        _cograd(w=w)


def test_a_string_is_no_sequence_of_names() -> None:
    with pytest.raises(ValueError, match=r"fixed_names is 'net'; expected a sequence of names, \('net',\)"):
        _cograd(fixed_names="net")


@pytest.mark.parametrize("total", [0, -3, 10.5, "10"])
def test_a_run_has_a_number_of_steps(total) -> None:
    with pytest.raises(ValueError, match=r"total_steps is .*; expected the number of steps of the run, a whole number of at least 1"):
        CoGrad(CoGradParams(), ALPHAS, total)
