# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a tiny autoencoder: what it trains fits the toy prior, and what its tables compare."""

import pytest
import torch
from diffusers import AutoencoderTiny

from arguments.load import load_config
from benchmarks import tiny_autoencoder as benchmark
from evaluation.experiments import runs
from guidance.tiny_vae import check_tiny_vae_shape, tiny_vae_shape
from tests.drawn import Draws
from tests.red_ball import write_run
from tests.tiny_vae import fitted_tiny_vae
from trainer.priors import load_prior


@pytest.fixture
def prior(monkeypatch):
    """The toy prior, with a benchmark that has little to do."""
    sizes = {"VIEWS": 2, "HELD_OUT_VIEWS": 1, "BATCH": 4, "TIMESTEPS": (500,), "STEPS_OF_RUN": (1,)}
    for name, value in sizes.items():
        monkeypatch.setattr(benchmark, name, value)
    words = ["--opt", "configs/toy_trained.yaml", "--device", "cpu", "--model_path", "unused"]
    return load_prior(load_config(words), torch.device("cpu"))


def test_what_is_trained_fits_the_prior(tmp_path, prior) -> None:
    torch.manual_seed(0)
    images = Draws(0).uniform(2, 3, 16, 16)
    wanted, errors = prior._mean_latents(images), []
    for steps in (2, 60):
        benchmark.train_tiny(tmp_path / str(steps), prior, steps, noise=0.1)
        tiny = AutoencoderTiny.from_pretrained(tmp_path / str(steps))
        check_tiny_vae_shape(tiny_vae_shape(tmp_path / str(steps)), prior.vae, "it")
        with torch.no_grad():
            errors.append(float((tiny.encode(2 * images - 1).latents - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.8 * errors[0], errors


def test_the_tables(tmp_path, prior, capsys, monkeypatch) -> None:
    """With an autoencoder that was fitted: errors, cosines, and both runs of a pair, of which only one has it."""
    made = []

    def run_one(run, sweep, slot):
        made.append("--tiny_vae" in run.flags)
        measured = sweep.measure(write_run(sweep.folder(run.name), iterations=(5,)), [])
        result = {**run.facts, "flags": list(run.flags), "train_s": 1.0, **measured}
        runs.write_result(sweep.path(run.name), result)
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    monkeypatch.setattr(benchmark, "PROMPTS", benchmark.PROMPTS[:1])
    fitted_tiny_vae(prior, tmp_path / "tiny")
    assert benchmark.main(["--out", str(tmp_path), "--seeds", "1"]) == 0
    assert made == [False, True]
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("|")]
    error, correlation = (float(cell) for cell in next(row for row in cells if row[0] == "renders")[1:])
    assert 0 < error < 1 and 0.5 < correlation < 1
    cosines = next(row for row in cells if row[0] == "500")[1:]
    image, gaussians, lowest, size, noise = map(float, cosines)
    assert lowest <= gaussians < 1 and image < 1 and size > 0 and noise < 0.99
    assert cells[-1][1] == "0" and cells[-1][4] == "0.00" and "Mean difference +0.00 +- nan dB." in shown
