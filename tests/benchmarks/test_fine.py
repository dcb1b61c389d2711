# SPDX-License-Identifier: Apache-2.0
"""The benchmark of configs/fine.yaml: each training differs from it by what its name says and reads what it sets."""

import pytest

from arguments.no_effect import without_effect
from benchmarks.fine import OBJECTS, VARIANTS, Outcome, settings_of, table


@pytest.mark.parametrize("is_short", [False, True])
def test_each_training_reads_what_its_change_sets(is_short, tmp_path) -> None:
    fine = settings_of("fine", OBJECTS[0], is_short, tmp_path)
    for name, changes in VARIANTS.items():
        config = settings_of(name, OBJECTS[0], is_short, tmp_path)
        unread = {label.rpartition(".")[2] for label, _ in without_effect(config)}
        assert not changes.keys() & unread, (name, unread)
        assert (config == fine) == (not changes or (is_short and name == "128 px")), name
        assert config.optimization.iterations == fine.optimization.iterations


def test_the_table_has_means_and_differences_from_the_first() -> None:
    fine = [Outcome(25000, psnr, 0.9, psnr - 1, 0.8, 10.0, 100.0) for psnr in (27.0, 29.0)]
    other = [Outcome(10000, 25.0, 0.85, 24.0, 0.75, 20.0, 80.0)]
    assert table({"fine": fine, "few": other}).splitlines()[2:] == [
        "| fine | 25,000 | 28.00 | 0.900 | 27.00 | 0.800 | 10 | 100 |",
        "| few | 10,000 | 25.00 (-3.00) | 0.850 (-0.05) | 24.00 (-3.00) | 0.750 (-0.05) | 20 | 80 |",
    ]
