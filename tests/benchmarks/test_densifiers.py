# SPDX-License-Identifier: Apache-2.0
"""The densifiers' benchmark: its trainings are all that they are called, and its table is their mean."""

import pytest

from arguments.declare import keys_of
from arguments.no_effect import without_effect
from arguments.optimization import OptimizationParams
from benchmarks.densifiers import BUDGETS, DENSIFIERS, FIXED, OBJECTS, Outcome, Variant, settings_of, table


def test_there_is_a_training_for_each_densifier() -> None:
    assert sorted({*DENSIFIERS} - {FIXED}) == sorted(keys_of(OptimizationParams)["densifier"][1].choices)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("densifier", DENSIFIERS)
def test_a_training_reads_its_settings(tmp_path, densifier, budget) -> None:
    variant = Variant(densifier, budget)
    config = settings_of(variant, OBJECTS[0], 0, tmp_path)
    unread = {label for label, _ in without_effect(config)}
    assert not {f"OptimizationParams.{key}" for key in variant.settings()} & unread
    if densifier == FIXED:
        assert config.optimization.densify_until_iter == 0 and config.cameras.init_num_pts == budget
    else:
        assert config.optimization.densifier == densifier
    assert (config.optimization.max_points == budget) == (densifier != "inria")


def test_the_table_has_means_and_differences_to_the_fixed_number_of_the_same_budget() -> None:
    numbers = {
        Variant(FIXED, 20): [(10, 20.0), (20, 24.0)],
        Variant("mcmc", 20): [(30, 21.0), (30, 27.0)],
        Variant(FIXED, 40): [(40, 25.0), (40, 25.0)],
        Variant("mcmc", 40): [(40, 24.0), (40, 24.0)],
    }
    runs = {variant: [Outcome(n, psnr, 0.5) for n, psnr in rows] for variant, rows in numbers.items()}
    assert table(runs).splitlines()[2:] == [
        "| 20 | fixed | 15 | 22.00 |  | 0.500 |", "| 20 | mcmc | 30 | 24.00 | +2.00 ± 1.00 | 0.500 |",
        "| 40 | fixed | 40 | 25.00 |  | 0.500 |", "| 40 | mcmc | 40 | 24.00 | -1.00 ± 0.00 | 0.500 |",
    ]  # fmt: skip
