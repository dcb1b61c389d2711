# SPDX-License-Identifier: Apache-2.0
"""Equal terms for the rows of a table: samples counted as the laws ask for them, budgets in samples, one setting for all."""

import json

import pytest

import train
from arguments.load import load_config
from distillation import LAWS
from evaluation.experiments import budget, grid, runs
from tests.checkout import ROOT
from trainer.run_log import read_steps

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


@pytest.mark.parametrize("prior", ["toy", "toy-trained", "sd"])
@pytest.mark.parametrize("setting", ["own", "common"])
def test_the_rows_of_table_1_take_equally_many_samples(prior, setting) -> None:
    plain = [grid.table_run(prior, variant, ROBOT, 0) for variant in grid.TABLES["1"]]
    most = grid.MOST_GUIDANCE.get(prior, 1e9)
    made = []
    for asked in budget.in_setting(plain, setting):
        made.append(budget.within(asked, "samples", 24_000, budget.samples_a_step_within(asked, 24_000)))
    assert len({run.name for run in [*plain, *made]}) == 2 * len(plain)
    for run in made:
        config = grid.config_of(run)
        taken = config.optimization.iterations * budget.samples_a_step(config)
        assert taken == pytest.approx(24_000, rel=0.02) and run.facts["name"] == run.name
        assert config.guidance.guidance_scale <= most
        if prior != "sd":
            assert config.optimization.warmup_iter == config.optimization.iterations
        if setting == "common":
            own = config.guidance
            assert (own.guidance_scale, own.weighting, own.t_schedule, own.grad_clamp) == (
                min(7.5, most), "interval", "warm_up", (0.0, 0.0),
            )  # fmt: skip


def test_with_cograds_timesteps_its_own_range_is_counted() -> None:
    words = ["--opt", "toy", "--CoGradParams.enabled", "true", "--distillation", "ism", "--t_range", "0.9", "0.91", "--t_base_range"]
    assert budget.samples_a_view(load_config([*words, "50", "60"])) < budget.samples_a_view(load_config([*words, "900", "910"]))


def test_a_row_is_timed_once_and_alone(tmp_path, monkeypatch) -> None:
    """In short runs of its own, whose records' medians count, without those of the first steps."""
    asked = []

    def run_one(run, sweep, slot):
        asked.append(run.facts["variant"])
        config = grid.config_of(run)
        assert (config.optimization.iterations, sweep.jobs) == (budget.TIMED_STEPS, 1)
        ms = [9e4] * budget.WARM_UP + [{"full": 200.0, "hifa": 50.0}[run.facts["variant"]]] * 9 + [9e4] * 3
        result = sweep.measure(tmp_path, [{"phase_ms": {"render": t / 4, "guidance": 3 * t / 4}} for t in ms])
        runs.write_result(sweep.path(run.name), {**run.facts, "flags": list(run.flags), **result})
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    sweep = runs.Sweep(tmp_path, lambda words: 0, lambda folder, log: {}, jobs=2)
    (tmp_path / "pace").mkdir()
    for seeds in (1, 2):
        order = [grid.table_run("toy", variant, ROBOT, seed) for variant in ("hifa", "full") for seed in range(seeds)]
        assert budget.paces(order, sweep) == pytest.approx({"hifa": 0.05, "full": 0.2})
    assert sorted(asked) == ["full", "hifa"]


def test_a_row_that_fails_cannot_be_timed(tmp_path, monkeypatch) -> None:
    def run_one(run, sweep, slot):
        raise runs.RunFailed("no memory")

    monkeypatch.setattr(runs, "run_one", run_one)
    sweep = runs.Sweep(tmp_path, lambda words: 0, lambda folder, log: {})
    with pytest.raises(ValueError, match=r"--budget minutes could not time a row: hifa.*no memory"):
        budget.paces([grid.table_run("toy", "hifa", ROBOT, 0)], sweep)


WARM_UP = ["--t_schedule", "warm_up", "--t_range", "0.02", "0.5", "--max_t_range", "0.98"]


@pytest.mark.parametrize("variant", ["ism", "ism_schedule"])
@pytest.mark.parametrize("schedule", [[], WARM_UP, ["--t_schedule", "sqrt"]], ids=["own", "warm_up", "sqrt"])
def test_the_samples_of_an_inversion_are_counted_along_the_runs_schedule(tmp_path, variant, schedule) -> None:
    """Against a real run's, whose timesteps are drawn: CoGrad's schedule leaves its long inversions early, a warm-up has
    longer ones at first."""
    sizes = ["--image_w", "16", "--image_h", "16", "--view_px", "16", "--init_num_pts", "60"]
    run = grid.table_run("toy", variant, ROBOT, 0, ["--iterations", "60", "--warmup_iter", "60", *schedule, *sizes])
    assert train.main([*run.flags, "--model_path", str(tmp_path), "--checkpoint_every", "0"]) == 0
    taken = sum(step["unet_samples"] for step in read_steps(tmp_path / "log.jsonl"))
    assert 60 * budget.samples_a_step(grid.config_of(run)) == pytest.approx(taken, rel=0.05)
