# SPDX-License-Identifier: Apache-2.0
"""What CoGrad saves of itself is continued where it belongs, and refused elsewhere with nothing taken over."""

import dataclasses

import pytest
import torch

from arguments import CoGradParams
from cograd import CoGrad
from guidance.sd_step import scaled_linear_alphas

PARAMS = CoGradParams(elevation_levels=3, azimuth_levels=4, distance_levels=2)


def _cograd(seen: bool, **settings) -> CoGrad:
    cograd = CoGrad(dataclasses.replace(PARAMS, **settings), scaled_linear_alphas(), 50)
    if seen:
        cograd.observe(20, torch.tensor([0, 5]), torch.tensor([500, 400]), torch.tensor([1.0, 2.0]), [{"xyz": torch.ones(4, 3)}] * 2)
    return cograd


def _visits(cograd: CoGrad) -> tuple[int, int, int]:
    return int(cograd.history.n.sum()), int(cograd.signal.count.sum()), len(cograd.bank)


STATES = {
    "other levels": (lambda s: s, {"elevation_levels": 2, "distance_levels": 3}, r"CoGradParams.elevation_levels is 2; expected 3, as in the saved state"),
    "other elevations": (lambda s: s, {"elevation_range": (-80.0, 80.0)}, r"CoGradParams.elevation_range is \(-80.0, 80.0\); expected \(-30.0, 60.0\), as in"),
    "other distances": (lambda s: s, {"distance_range": (2.0, 3.0)}, r"CoGradParams.distance_range is \(2.0, 3.0\); expected \(1.5, 2.0\)"),
    "another signal": (lambda s: s, {"loss_signal": "t_normalised"}, r"loss_signal is t_normalised; expected residual, as in the saved"),
    "other bins": (lambda s: s, {"loss_signal_bins": 7}, r"loss_signal_bins is 7; expected 40, as in the saved"),
    "the grid is missing": (lambda s: {k: x for k, x in s.items() if k != "grid"}, {}, r"the saved state has \['bank', 'history', 'signal'\]; expected grid, history, signal, bank"),
    "nothing": (lambda s: {}, {}, r"the saved state has \[\]; expected grid, history, signal, bank"),
    "a part is missing": (lambda s: {k: x for k, x in s.items() if k != "bank"}, {}, r"the saved state has \['grid', 'history', 'signal'\]; expected grid, history, signal, bank"),
    "another part": (lambda s: {**s, "model": 1}, {}, r"the saved state has \['bank', 'grid', 'history', 'model', 'signal'\]; expected"),
    "only another part": (lambda s: {"model": 1}, {}, r"the saved state has \['model'\]; expected"),
    "an empty part": (lambda s: {**s, "history": {}}, {}, r"the saved state is not what state_dict\(\) gives: KeyError"),
    "an empty last part": (lambda s: {**s, "bank": {}}, {}, r"the saved state is not what state_dict\(\) gives: KeyError"),
    "a number": (lambda s: {**s, "signal": 1}, {}, r"the saved state is not what state_dict\(\) gives: "),
    "another grid": (lambda s: {**s, "grid": {"colours": 3}}, {}, r"the saved state is not what state_dict\(\) gives: "),
    "another tree": (lambda s: {"sampler": 1}, {}, r"the saved state has \['sampler'\]; expected"),
    "None": (lambda s: None, {}, r"the saved state is not what state_dict\(\) gives: "),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_does_not_belong_is_refused_whole(case) -> None:
    change, settings, message = STATES[case]
    state, other = change(_cograd(seen=True).state_dict()), _cograd(seen=False, **settings)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)
    assert _visits(other) == (0, 0, 0)


def test_a_part_may_begin_afresh_where_that_is_asked_for() -> None:
    state, other = _cograd(seen=True).state_dict(), _cograd(seen=False, loss_signal="weighted")
    other.load_state_dict({name: state[name] for name in ("bank", "grid")}, strict=False)
    assert _visits(other) == (0, 0, 2)
    for wrong in ({"grid": {**state["grid"], "azimuth_levels": 5}}, {"model": 1}):
        with pytest.raises(ValueError, match=r"as in the saved state|the saved state has \['model'\]"):
            other.load_state_dict(wrong, strict=False)


def test_ranges_may_be_lists_as_files_hold_them() -> None:
    state, other = _cograd(seen=True).state_dict(), _cograd(seen=False)
    state["grid"] = {name: list(x) if isinstance(x, tuple) else x for name, x in state["grid"].items()}
    other.load_state_dict(state)
    assert _visits(other)[0] == 2
