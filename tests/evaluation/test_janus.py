# SPDX-License-Identifier: Apache-2.0
"""Wilson's interval, the blinded order, and the rates that labels give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from evaluation.janus import Rate, blinded, rates, wilson

KEY = {"001": "a-x", "002": "b-x", "003": "a-y", "004": "b-y"}
METHOD_OF = {name: name[0] for name in KEY.values()}


@pytest.mark.parametrize(("successes", "trials"), [(16, 80), (18, 80), (0, 7), (7, 7), (1, 1000)])
def test_the_interval_is_scipys(successes, trials) -> None:
    """16 and 18 of 80 are the paper's rates, 0.2000 and 0.2250."""
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(0, 300), st.integers(1, 300))
def test_an_interval_holds_its_share_and_mirrors(successes, trials) -> None:
    successes = min(successes, trials)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12 and successes / trials - 1e-12 <= high <= 1
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low))
    assert wilson(10 * successes, 10 * trials)[1] - wilson(10 * successes, 10 * trials)[0] < high - low


def test_without_a_trial_nothing_is_known() -> None:
    assert wilson(0, 0) == (0, 1) and math.isnan(Rate(0, 0, 3).value)


def test_a_blinded_order_is_a_shuffle_of_which_a_part_keeps_its_ids() -> None:
    names = [f"method{k % 4}-{k}" for k in range(40)]
    key = blinded(names, "sheet")
    assert sorted(key.values()) == sorted(names) and list(key.values()) != names
    assert not key.keys() & blinded(names, "other").keys()
    part = blinded(names[::3], "sheet")
    assert part.items() <= key.items() and list(part) == [number for number in key if number in part]


def test_rates_by_method() -> None:
    found = rates({"001": "janus", "002": "consistent", "003": "unsure", "004": "consistent"}, KEY, METHOD_OF)
    assert found == {"a": Rate(1, 1, 1), "b": Rate(0, 2, 0)}
    assert rates({"001": "janus", "002": "janus"}, KEY, {"b-x": "b", "b-y": "b"}) == {"b": Rate(1, 1, 0)}
    assert found["b"].value == 0 and found["b"].interval == wilson(0, 2)


def test_labels_of_another_sheet_are_told() -> None:
    with pytest.raises(ValueError, match=r"the labels name '017', which the key lacks"):
        rates({"017": "janus"}, KEY, METHOD_OF)
    with pytest.raises(ValueError, match=r"the labels hold 'maybe'; expected consistent, janus, unsure"):
        rates({"001": "maybe"}, KEY, METHOD_OF)
