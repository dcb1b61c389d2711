# SPDX-License-Identifier: Apache-2.0
"""Every distillation law on the toy world: with CoGrad and without, resumed bit for bit, on two processes as on one."""

import copy
import functools

import pytest
import torch

from arguments.load import load_config
from distillation import LAWS
from guidance.prompts import PromptEmbeddings
from tests.ranks import in_ranks
from tests.trees import equal
from toy.ideal import IdealPrior
from trainer.distributed import ALONE
from trainer.state import TrainState
from trainer.step import training_step
from utils.tree_file import load_tree, save_tree

SMALL = {
    "opt": "configs/quickstart.yaml", "iterations": 10, "init_num_pts": 60, "image_w": 16, "image_h": 16, "C_batch_size": 2,
    "device": "cpu",
}  # fmt: skip
WORDS = [*(word for name, value in SMALL.items() for word in (f"--{name}", str(value))), "--CoGradParams.enabled"]


@functools.cache
def ideal_prior():
    config = load_config([*WORDS, "true"])
    return IdealPrior(config.guidance, "cpu", 16, config.cameras, images=12)


@pytest.fixture
def prior():
    return ideal_prior()


def begun(config, prior, prompts):
    state = TrainState.start(config, "cpu", writes=False)
    state.begin_cograd(config, prior.alphas_cumprod)
    state.begin_predictor(prior, prompts)
    return state


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_it_trains_and_resumes_bit_for_bit(prior, tmp_path, law, enabled) -> None:
    config = load_config([*WORDS, enabled, "--distillation", law, "--model_path", str(tmp_path)])
    prompts = PromptEmbeddings(prior, config.guidance)
    state = begun(config, prior, prompts)
    before = state.gaussians.get_xyz.detach().clone()
    for _ in range(3):
        step, update = training_step(state, prior, prompts, config)
        assert update.fault is None and step.losses.fault is None
    assert not torch.equal(before, state.gaussians.get_xyz)
    save_tree(tmp_path / "state", state.state_dict())
    resumed = begun(config, prior, prompts)
    resumed.load_state_dict(load_tree(tmp_path / "state"))
    for run in (state, resumed):
        for _ in range(2):
            training_step(run, prior, prompts, config)
    assert equal(state.state_dict(), resumed.state_dict())




def test_the_bridge_leads_from_all_images_to_the_texts_on_the_ideal_prior(prior) -> None:
    """No image of its set is bad, so that the source is every image; else the second stage would do nothing."""
    config = load_config([*WORDS, "false", "--distillation", "bridge"])
    cond = PromptEmbeddings(prior, config.guidance).conditioning([0.0, 90.0, 180.0])
    assert torch.equal(cond.further["source"], cond.uncond) and torch.equal(cond.further["target"], cond.positive)
    assert not torch.equal(cond.uncond, cond.positive)


def run(world, folder, law, enabled):
    """Losses of two steps, and the state they end in, of a run whose three views `world` shares."""
    path = folder / f"{law}_{enabled}_{world.size}_{world.rank}"
    config = load_config([*WORDS, enabled, "--distillation", law, "--C_batch_size", "3", "--model_path", str(path)])
    prior = ideal_prior()
    prompts = PromptEmbeddings(prior, config.guidance)
    state = begun(config, prior, prompts)
    losses = [training_step(state, prior, prompts, config, world)[0].losses for _ in range(2)]
    return [loss.per_view for loss in losses], [loss.t for loss in losses], copy.deepcopy(state.state_dict())


def runs_of_all(world, folder):
    return {(law, enabled): run(world, folder, law, enabled) for law in LAWS for enabled in ("true", "false")}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """(of one process, of each of two): a run of every law."""
    folder = tmp_path_factory.mktemp("ranks")
    return runs_of_all(ALONE, folder), in_ranks(runs_of_all, 2, folder, folder)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_two_processes_run_like_one(worlds, law, enabled) -> None:
    """The same timesteps, losses up to the rounding of batches of another size, and one state on both."""
    alone, ranks = worlds
    want = alone[law, enabled]
    for rank in ranks:
        losses, t, state = rank[law, enabled]
        assert [x.tolist() for x in t] == [x.tolist() for x in want[1]]
        for got, expected in zip(losses, want[0]):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)
        assert equal(state, ranks[0][law, enabled][2])
        assert equal(state["streams"], want[2]["streams"])
