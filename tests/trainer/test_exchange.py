# SPDX-License-Identifier: Apache-2.0
"""Two processes make the steps that one makes: every draw, every count, gradients and parameters to rounding."""

import copy
from pathlib import Path

import pytest
import torch

from arguments.load import load_config
from guidance.prompts import PromptEmbeddings
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from tests.ranks import in_ranks
from tests.trees import equal
from trainer.distributed import ALONE, World
from trainer.exchange import gather_numbers
from trainer.state import TrainState
from trainer.step import apply_update, compute_gradients
from utils.shard import Shard

STEPS = 14
SMALL = {
    "iterations": STEPS, "densify_from_iter": 2, "densification_interval": 4, "opacity_reset_interval": 6, "densify_until_iter": 13,
    "densify_grad_threshold": 1e-7, "use_progressive": True, "warmup_iter": 10, "image_w": 16, "image_h": 16, "init_num_pts": 60,
    "C_batch_size": 3, "text": "a thing", "device": "cpu", "sh_degree": 1, "as_latent_ratio": 0.3, "bg_aug_ratio": 0.5,
}  # fmt: skip
COGRAD = {
    "CoGradParams.enabled": True, "azimuth_levels": 4, "elevation_levels": 1, "max_step_share": 0.9, "max_t_difference": 900,
    "perpneg": False, "fix_noise": True,
}  # fmt: skip
RUNS = {
    "baseline": {"perpneg": True}, "cograd": COGRAD, "faulty": {"perpneg": False},
    "absgrad": {**COGRAD, "densifier": "absgrad", "max_points": 90},
    "mcmc": {**COGRAD, "densifier": "mcmc", "mcmc_noise": 10.0},
    "cadam": {"perpneg": False, "densifier": "cadam", "cadam_ratio": 0.2},
    "surface": {**COGRAD, "lambda_flatness": 9, "lambda_translucency": 9, "lambda_z_variance": 3},
}  # fmt: skip
BAD_CALL = 25  # of the network, in the process of the last view


class Faulty(GaussianMixturePrior):
    """Predicts NaN once, in one process, for the last of its views."""

    calls, bad_call = 0, BAD_CALL

    def predict_noise(self, x_t, t, embeddings):
        self.calls += 1
        eps = super().predict_noise(x_t, t, embeddings)
        eps[-1] += float("nan") if self.calls == self.bad_call else 0
        return eps


def _run(world: World, folder: Path, name: str) -> tuple[list[dict], dict]:
    """(what each step did, the state in the end) of a run whose views `world` shares."""
    folder = folder / f"{name}_{world.size}_{world.rank}"
    words = [w for k, v in {**SMALL, **RUNS[name], "model_path": folder}.items() for w in (f"--{k}", str(v))]
    config = load_config(words)
    means = Draws(3).normal(2, 3, 16, 16)
    prior = Faulty(means, 0.3)
    prior.bad_call = BAD_CALL if name == "faulty" and world.rank == world.size - 1 else -1
    state, steps = TrainState.start(config, "cpu"), []
    state.begin_cograd(config, prior.alphas_cumprod)
    prompts = PromptEmbeddings(prior, config.guidance)
    for _ in range(STEPS):
        report = compute_gradients(state, prior, prompts, config, world)
        gradients = {n: p.grad.clone() for n, p in state.gaussians.parameters_in_order().items() if p.grad is not None}
        update = apply_update(state, report, config)
        drawn = {key: x for key, x in report.record(update, 0).items() if key in ("t", "as_latent", "azimuth_deg", "fault")}
        statistics = state.gaussians.denom.sum(), state.gaussians.max_radii2D.max()
        steps.append({"drawn": drawn, "n": len(state.gaussians.get_xyz), "gradients": gradients, "statistics": statistics,
                      "losses": report.losses.terms, "loss_per_view": report.losses.per_view, "cograd": update.cograd})  # fmt: skip
    return steps, copy.deepcopy(state.state_dict())


def _rank(world: World, folder: Path) -> dict:
    wrong = None
    try:
        gather_numbers({"t": torch.zeros(1)}, 60 + world.rank, Shard(2, world.rank, world.rank + 1), world)
    except RuntimeError as error:
        wrong = str(error)
    rows = world.gather(torch.arange(world.rank * 2, 3)[: 1 + world.rank].float()[:, None], world.shard(3))
    told = world.broadcast({"x": torch.arange(3.0), "rank": [world.rank, None, "a"]})
    return {"wrong": wrong, "uneven": rows, "told": told, **{name: _run(world, folder, name) for name in RUNS}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(by name: the run of one process, by rank and name: those of two)."""
    folder = tmp_path_factory.mktemp("ranks")
    return {name: _run(ALONE, folder, name) for name in RUNS}, in_ranks(_rank, 2, folder, folder)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_draw_and_count_as_one(runs, name) -> None:
    alone, ranks = runs
    for rank in ranks:
        for want, got in zip(alone[name][0], rank[name][0], strict=True):
            for key in ("drawn", "n", "statistics"):
                assert got[key] == want[key], key


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_and_gradients_of_one(runs, name) -> None:
    alone, ranks = runs
    for rank in ranks:
        for want, got in zip(alone[name][0], rank[name][0], strict=True):
            assert got["losses"] == pytest.approx(want["losses"], rel=1e-5, nan_ok=True)
            torch.testing.assert_close(got["loss_per_view"], want["loss_per_view"], rtol=1e-5, atol=0, equal_nan=True)
            assert got["gradients"].keys() == want["gradients"].keys()
            for key, g in want["gradients"].items():
                assert float((got["gradients"][key] - g).norm()) <= 1e-5 * float(g.norm()), key


def _numbers(tree) -> list[torch.Tensor]:
    if isinstance(tree, dict | list | tuple):
        return [x for node in (tree.values() if isinstance(tree, dict) else tree) for x in _numbers(node)]
    return [] if tree is None or isinstance(tree, str) else [torch.as_tensor(tree).double()]


@pytest.mark.parametrize("name", RUNS)
def test_the_processes_end_in_one_state_which_is_that_of_one(runs, name) -> None:
    """Parameters, optimizer, streams, first noise, histories and the bank."""
    alone, ranks = runs
    (_, first), (_, second) = (rank[name] for rank in ranks)
    assert equal(first, second)
    for want, got in zip(_numbers(alone[name][1]), _numbers(first), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)


def test_what_the_runs_were_to_show_is_in_play(runs) -> None:
    alone, _ = runs
    for name in RUNS:
        counts = [step["n"] for step in alone[name][0]]
        assert counts[0] == 60 < counts[-1]
    assert any(view["cosines"] for step in alone["cograd"][0] for view in step["cograd"]["fusion"])
    faults = [step["drawn"]["fault"] for step in alone["faulty"][0]]
    assert sum(fault is not None for fault in faults) == 1
    assert "views [2]" in next(filter(None, faults))
    assert {step["drawn"]["as_latent"] for step in alone["baseline"][0]} == {True, False}


def test_uneven_shares_come_together_in_order(runs) -> None:
    for rank in runs[1]:
        assert rank["uneven"].tolist() == [[0.0], [2.0], [2.0]]


def test_all_hear_what_the_first_says(runs) -> None:
    for rank in runs[1]:
        assert equal(rank["told"], {"x": torch.arange(3.0), "rank": [0, None, "a"]})


def test_processes_that_came_apart_are_told(runs) -> None:
    for rank in runs[1]:
        assert rank["wrong"] == (
            "the processes of this run are out of step, they hold 60 and 61 Gaussians; use GPUs of one kind and the same "
            "versions everywhere, and start from the last checkpoint"
        )
