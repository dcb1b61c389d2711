# SPDX-License-Identifier: Apache-2.0
"""The densifiers' benchmark: its trainings are all that they are called, and its table is their mean."""

from arguments.declare import keys_of
from arguments.no_effect import without_effect
from arguments.optimization import OptimizationParams
from benchmarks.densifiers import LAST, OBJECTS, VARIANTS, Outcome, settings_of, table


def test_there_is_a_training_for_each_densifier_and_it_reads_its_settings(tmp_path) -> None:
    configs = {name: settings_of(name, OBJECTS[0], 0, tmp_path) for name in VARIANTS}
    growing = {name: config for name, config in configs.items() if not name.startswith("fixed")}
    assert sorted(growing) == sorted(keys_of(OptimizationParams)["densifier"][1].choices)
    for name, config in growing.items():
        unread = {label for label, _ in without_effect(config)}
        assert config.optimization.densifier == name
        assert not {f"OptimizationParams.{key}" for key in VARIANTS[name]} & unread
    assert growing["mcmc"].optimization.max_points == LAST


def test_the_table_has_means_and_paired_differences() -> None:
    base, other = ([Outcome(n, psnr, 0.5) for n, psnr in rows] for rows in ([(10, 20.0), (20, 24.0)], [(30, 21.0), (30, 27.0)]))
    assert table({"a": base, "b": other}).splitlines()[2:] == [
        "| a | 15 | 22.00 |  | 0.500 |", "| b | 30 | 24.00 | +2.00 ± 1.00 | 0.500 |"
    ]  # fmt: skip
