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


@pytest.mark.parametrize("words, told", [("--seeds 0", "are 1 or more"), ("--tau 0", "tau is above 0"), ("--min_visit_share 1.5", "0..1")])
def test_impossible_settings_are_refused(words, told, capsys) -> None:
    with pytest.raises(SystemExit):
        main(words.split())
    assert told in capsys.readouterr().err
