# SPDX-License-Identifier: Apache-2.0
"""The starvation table's numbers on a small case, and what its command line refuses."""

import pytest

from arguments import CoGradParams
from tools.region_starvation import main, simulate


def test_equal_losses_are_spread_like_a_uniform_draw() -> None:
    """sigma 0: every r is 1, so visits are multinomial: mean 40 of 800 draws in 20 regions, deviation 6."""
    spread = simulate(CoGradParams(), regions=20, draws=800, sigma=0.0, seed=0)
    assert 18 < spread.fewest < 40 < spread.most < 66
    assert spread.starved == 0.0 and spread.largest_p == pytest.approx(0.05, rel=1e-4) and spread.repeated == pytest.approx(0.05, abs=0.03)


def test_spread_losses_starve_regions_and_a_visit_floor_feeds_them() -> None:
    """20 draws a region; the floor alone is worth 10."""
    bare, fed = (simulate(CoGradParams(min_visit_share=share), regions=60, draws=1200, sigma=0.8, seed=0) for share in (0.0, 0.5))
    assert bare.starved > 0.05 and fed.starved == 0.0
    assert bare.repeated > 0.06 and bare.largest_p > 0.9 and fed.largest_p < 0.51 and fed.fewest > bare.fewest


def test_the_table_has_a_row_a_setting(capsys) -> None:
    assert main(["--sigma", "0", "0.5", "--min_visit_share", "0", "0.1", "--regions", "8", "--draws", "60", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "60 draws, 8 regions, tau 0.1, 2 seeds"
    assert [line.split(" | ")[:2] for line in lines[4:]] == [["| 0", "0"], ["| 0.5", "0"], ["| 0", "0.1"], ["| 0.5", "0.1"]]


@pytest.mark.parametrize("words", [
    "--seeds 0", "--tau 0", "--tau nan", "--tau inf", "--tau 1e-320", "--min_visit_share 1.5", "--sigma 0.1 nan", "--sigma inf",
    "--sigma 1000", "--sigma -1", "--regions 1000000000", "--draws 1000000000000",
])  # fmt: skip
def test_impossible_settings_are_refused(words, capsys) -> None:
    assert main(words.split()) == 2
    told = capsys.readouterr()
    value = float(words.split()[-1])
    said = f"{value:.0f}" if words.split()[0][2:] in ("seeds", "regions", "draws") else str(value)
    assert told.err.startswith(f"region_starvation: {words.split()[0]} {said}: expected a number from ") and not told.out


@pytest.mark.parametrize("words", ["--sigma 100 --tau 1e-6", "--sigma 100 --tau 1e6", "--sigma 0 --min_visit_share 1"])
def test_the_bounds_themselves_are_possible(words, capsys) -> None:
    assert main([*words.split(), "--regions", "2", "--draws", "500", "--seeds", "1"]) == 0 and "nan" not in capsys.readouterr().out
