# SPDX-License-Identifier: Apache-2.0
"""Equal terms for the rows of a table: samples counted as the laws ask for them, budgets in samples, one setting for all."""

import json

import pytest

from arguments.load import load_config
from distillation import LAWS
from evaluation.experiments import budget, grid
from tests.checkout import ROOT

NUMBERS = json.loads((ROOT / "tests/data/distillation_numbers.json").read_text())["laws"]
ROBOT = "a cyan robot with orange arms"


@pytest.mark.parametrize("law", [law for law in LAWS if law not in ("ism", "sctd", "sdi")])
def test_a_law_is_counted_with_its_samples(law) -> None:
    config = load_config(["--opt", "toy", "--distillation", law, "--perpneg", "false"])
    assert budget.samples_a_view(config) == NUMBERS[law]["samples"]
    assert budget.samples_a_step(config) == config.guidance.C_batch_size * NUMBERS[law]["samples"]


def test_an_inversion_takes_more_samples_the_higher_it_ends() -> None:
    def samples(t_range):
        words = ["--opt", "toy", "--CoGradParams.enabled", "false", "--distillation", "ism", "--t_range", *t_range]
        return budget.samples_a_view(load_config(words))

    assert samples(("0.05", "0.06")) < samples(("0.5", "0.51")) < samples(("0.9", "0.91"))


@pytest.mark.parametrize("prior", ["toy", "sd"])
@pytest.mark.parametrize("setting", ["own", "common"])
def test_the_rows_of_table_1_take_equally_many_samples(prior, setting) -> None:
    runs = [grid.table_run(prior, variant, ROBOT, 0) for variant in grid.TABLES[1]]
    made = budget.on_equal_terms(runs, "samples", setting, 24_000.0)
    assert len({run.name for run in [*runs, *made]}) == 2 * len(runs)
    for run in made:
        config = grid.config_of(run)
        taken = config.optimization.iterations * budget.samples_a_step(config)
        assert taken == pytest.approx(24_000, rel=0.02) and run.facts["name"] == run.name
        if prior == "toy":
            assert config.optimization.warmup_iter == config.optimization.iterations
            assert config.guidance.guidance_scale <= grid.TOY_MOST_GUIDANCE
        if setting == "common":
            own = config.guidance
            assert (own.guidance_scale, own.weighting, own.t_schedule, own.grad_clamp) == (7.5, "interval", "warm_up", (0.0, 0.0))


def test_with_cograds_timesteps_its_own_range_is_counted() -> None:
    words = ["--opt", "toy", "--CoGradParams.enabled", "true", "--distillation", "ism", "--t_range", "0.9", "0.91", "--t_base_range"]
    assert budget.samples_a_view(load_config([*words, "50", "60"])) < budget.samples_a_view(load_config([*words, "900", "910"]))


def test_equal_steps_leave_the_runs_as_they_are() -> None:
    runs = [grid.table_run("sd", variant, ROBOT, 0) for variant in grid.TABLES[1]]
    assert budget.on_equal_terms(runs, "steps", "own", 1.0) == runs
