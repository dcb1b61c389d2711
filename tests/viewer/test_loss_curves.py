# SPDX-License-Identifier: Apache-2.0
"""Curves of bounded length: whatever the run, each point is the mean over its steps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer.loss_curves import LossCurves


@given(steps=st.integers(1, 300), begin=st.integers(1, 50), most=st.integers(1, 20))
def test_points_are_means_over_their_steps_and_never_too_many(steps, begin, most) -> None:
    curves = LossCurves(most)
    iterations = np.arange(begin, begin + steps)
    for iteration in iterations:
        curves.add(int(iteration), {"a": float(iteration), "b": 1.0})
    table, point = curves.table(), (iterations - 1) // curves.stride
    assert curves.names == ("a", "b") and table.shape[1] <= most
    assert table[0].tolist() == [(k + 1) * curves.stride for k in np.unique(point)]
    assert table[1] == pytest.approx([iterations[point == k].mean() for k in np.unique(point)])
    assert (table[2] == 1.0).all()
    assert curves.last == {"a": float(iterations[-1]), "b": 1.0}  # of one step, not a mean


def test_a_faulty_step_is_left_out() -> None:
    curves = LossCurves()
    curves.add(1, {"a": 2.0})
    curves.add(2, {"a": math.nan})
    assert curves.table().tolist() == [[1.0], [2.0]] and curves.last == {"a": 2.0}


def test_a_run_that_went_back_overwrites_what_came_after() -> None:
    curves = LossCurves()
    for iteration, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 7.0)):
        curves.add(iteration, {"a": loss})
    assert curves.table().tolist() == [[1.0, 2.0], [1.0, 7.0]]


def test_nothing_yet_is_an_empty_table() -> None:
    assert LossCurves().table().shape == (1, 0)
