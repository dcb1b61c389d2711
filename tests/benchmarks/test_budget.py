# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of a run: samples counted by hand, and the goals' rates."""

from pathlib import Path

import pytest

from arguments.load import load_config
from benchmarks import budget
from benchmarks.budget import Work, samples_of, tflop_of_run
from evaluation.gpu_check.goals import MEAN_T


def config(*words):
    return load_config(["--opt", "configs/prompt.yaml", "--device", "cpu", *words])


@pytest.mark.parametrize(
    ("t", "words", "samples"),
    [
        (950, [], (2 + 6, 0)),
        (450, [], (2 + 3, 0)),  # 0, 200, 400 = t - 50
        (20, [], (2 + 2, 0)),  # LucidDreamer's step from 0 to itself
        (950, ["--perpneg", "true"], (4 + 6, 0)),
        (950, ["--unet_cache_interval", "3"], (2 + 3, 3)),
        (950, ["--unet_cache_interval", "9"], (2 + 2, 4)),
        (950, ["--xs_inv_steps", "2", "--xs_delta_t", "500"], (2 + 3, 0)),
        (950, ["--sds", "true"], (2, 0)),
    ],
)
def test_samples_of_a_view(t, words, samples):
    assert samples_of(config(*words), t) == samples


def test_a_run_counts_every_view_and_switches_its_autoencoder():
    work, steps = Work(sample=1.0, outer=0.1, encode=10.0, tiny_encode=3.0), [[950, 950, 950, 450]] * 4
    assert tflop_of_run(config(), work, steps) == pytest.approx(4 * (3 * 8 + 5 + 4 * 10))
    tiny = config("--tiny_vae", "FOLDER", "--tiny_vae_until", "0.75", "--unet_cache_interval", "3")
    assert tflop_of_run(tiny, work, steps) == pytest.approx(4 * (3 * 5.3 + 4 + 0.1) + 4 * (3 * 3 + 10))


def test_the_table(monkeypatch, capsys):
    """A step at the longest inversion is what benchmarks/step.py counts."""
    monkeypatch.setattr(budget, "planned_timesteps", lambda config: [[950] * 4] * 100)
    budget.main([])
    shown = capsys.readouterr().out
    assert "| ISM, prompt.yaml | 3 | 34.8 | 1.00 |" in shown
    rate = 1e3 * 3.48 / 720
    assert f"| prompt.yaml on an H100 | 720 | 7200 | {rate:.0f} |" in shown


def test_the_gpu_checks_timestep_costs_what_the_runs_steps_cost_in_the_mean():
    """25.2 TFLOP, from the committed table; of SDS any timestep does."""
    table = (Path(budget.__file__).parent / "results" / "budget.md").read_text()
    mean = float(table.partition("| ISM, prompt.yaml | ")[2].split("|")[1])
    work = Work(sample=0.804, outer=0.063, encode=2.27, tiny_encode=0.24)
    assert tflop_of_run(config(), work, [[MEAN_T] * 4]) == pytest.approx(mean, rel=0.01)


def test_cograd_plans_falling_timesteps():
    short = config("--iterations", "40")
    planned = list(budget.planned_timesteps(short))
    assert len(planned) == 40 and all(len(step) == 4 for step in planned)
    assert sum(planned[0]) > sum(planned[-1])
