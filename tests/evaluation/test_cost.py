# SPDX-License-Identifier: Apache-2.0
"""What tools/reproduce.py says the assets that are left cost: by each one's own settings, against the committed table."""

from pathlib import Path

import pytest

from evaluation.experiments import grid, runs
from evaluation.reproduction import cost

MUG = "a red mug"


def assets(prior: str, count: int, *extra: str, variant: str = "full") -> list[runs.Run]:
    return [grid.table_run(prior, variant, MUG, seed, extra) for seed in range(count)]


def pflop(*extra: str, variant: str = "full") -> float:
    """Of a run on Stable Diffusion."""
    return cost.pflop_of(grid.config_of(*assets("sd", 1, *extra, variant=variant)))


def test_a_run_costs_what_the_committed_table_says() -> None:
    """benchmarks/budget.py plans the timesteps of every step; here they are CoGrad's at 48 times of a run."""
    table = (Path(__file__).parents[2] / "benchmarks" / "results" / "budget.md").read_text()
    for row, variant in (("ISM, prompt.yaml", "full"), ("SDS (two samples a view)", "dreamfusion")):
        assert pflop(variant=variant) == pytest.approx(float(table.partition(f"| {row} | ")[2].split(" ")[0]), rel=0.02)


def test_a_cost_is_of_the_steps_views_size_and_law_that_are_asked_for() -> None:
    whole = pflop()  # other runs have another share of warm-up
    assert pflop("--iterations", "3000") == pytest.approx(whole / 2, rel=0.01)
    assert pflop("--C_batch_size", "2") == pytest.approx(whole / 2, rel=0.01)
    assert pflop("--image_w", "256", "--image_h", "256") == pytest.approx(whole / 4, rel=0.01)
    assert pflop("--iterations", "6000", variant="perpneg") > 1.3 * pflop(variant="dreamfusion")
    both = [*assets("sd", 1), *assets("sd", 1, variant="dreamfusion")]
    mean = (whole + pflop(variant="dreamfusion")) / 2
    assert cost.cost("sd", both, 1, [], 100).hours == pytest.approx(2 * mean * 1e3 / 100 / 3600)


@pytest.mark.parametrize("prior", grid.TOY_PRIORS)
def test_a_toy_run_of_a_quarter_of_the_views_takes_a_quarter_beside_its_images(prior) -> None:
    def seconds(*extra: str) -> float:
        return cost.cost(prior, assets(prior, 1, *extra), 1, [], 1).hours * 3600 - cost.TOY_IMAGES_S

    whole = seconds()
    assert seconds("--iterations", "75") == pytest.approx(whole / 4)
    assert seconds("--C_batch_size", "1") == pytest.approx(whole / 4)


def test_a_cost_is_of_what_is_left_and_learns() -> None:
    assert str(cost.cost("sd", [], 1, [], 58.0)) == "Nothing is left to make"
    left = assets("sd", 36)
    assert cost.cost("sd", left, 4, [100.0, 300.0], 58.0).hours == pytest.approx(0.5)
    assert "as the 2 made before" in str(cost.cost("sd", left, 4, [100.0, 300.0], 58.0))
    assert "about 1 minute (" in str(cost.cost("toy", assets("toy", 2), 2, [60.0], 1))
    assert str(cost.cost("toy", assets("toy", 80), 2, [17.0], 1)).endswith("2 at a time) and 112 MB")
    assert str(cost.cost("sd", assets("sd", 80), 2, [], 1)).endswith(" and 9.6 GB")
