# SPDX-License-Identifier: Apache-2.0
"""What is remembered of each region, against plain lists of losses; its state."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cograd.history import RegionHistory
from tests.cograd.histories import history_of


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1e150), min_size=2, max_size=12))
def test_means_and_last_losses_are_those_of_the_list(losses) -> None:
    history = history_of({1: losses})
    ema = losses[0]
    for loss in losses[1:]:
        ema = 0.9 * ema + 0.1 * loss
    assert float(history.L_bar[1]) == pytest.approx(math.fsum(losses[:-1]) / (len(losses) - 1), rel=1e-12)
    assert float(history.L_ema[1]) == pytest.approx(ema, rel=1e-12)
    assert [float(history.L_before[1]), float(history.L[1])] == losses[-2:] and int(history.n[1]) == len(losses)
    assert not any(getattr(history, name)[[0, 2, 3]].any() for name in history.ARRAYS)


@pytest.mark.parametrize(
    ("losses", "differences"),
    [
        ([], (0.0, 0.0, 0.0)),
        ([0.10], (0.05, 0.0, 0.05)),
        ([0.10, 0.12], (0.03, 0.15 - 2 * 0.12 + 0.10, 0.15 - 0.102)),
        ([0.10, 0.12, 0.11], (0.04, 0.15 - 2 * 0.11 + 0.12, 0.15 - (0.9 * 0.102 + 0.1 * 0.11))),
    ],
)
def test_differences_of_a_next_loss_of_fifteen_hundredths(losses, differences) -> None:
    assert history_of({2: losses}).differences(2, 0.15) == pytest.approx(differences, abs=1e-15)


def test_a_negative_loss_is_refused_before_anything_is_recorded() -> None:
    history = history_of({1: [2.0, 3.0]})
    before = history.state_dict()
    with pytest.raises(ValueError, match=r"the loss of region 1 is -2; expected 0 or more, which Eq\. \(6\) compares"):
        history.add(1, -2.0)
    assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(before[name])) for name, x in history.state_dict().items())


def test_starved_share_counts_regions_below_five_visits() -> None:
    assert history_of({0: [1.0] * 5, 1: [1.0] * 4}).starved_share() == 0.75


def test_state_is_a_copy_and_continues() -> None:
    first, second = history_of({0: [1.0, 1.5], 3: [2.0, 1.0]}), RegionHistory(4)
    first.refused = 3
    state = first.state_dict()
    second.load_state_dict(state)
    first.add(0, 3.0)
    assert int(second.n[0]) == int(state["n"][0]) == 2
    second.add(0, 3.0)
    assert second.refused == 3 and all(np.array_equal(getattr(first, name), getattr(second, name)) for name in first.ARRAYS)
    with pytest.raises(ValueError, match="regions of the saved state: 4; expected 5, those of the grid"):
        RegionHistory(5).load_state_dict(state)
