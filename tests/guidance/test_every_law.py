# SPDX-License-Identifier: Apache-2.0
"""Every distillation law on the toy world: with CoGrad and without, resumed bit for bit, and counted."""

import pytest
import torch

from arguments.load import load_config
from distillation import LAWS
from guidance.prompts import PromptEmbeddings
from tests.trees import equal
from toy.ideal import IdealPrior
from trainer.state import TrainState
from trainer.step import training_step
from utils.tree_file import load_tree, save_tree

SMALL = {
    "opt": "configs/quickstart.yaml", "iterations": 10, "init_num_pts": 60, "image_w": 16, "image_h": 16, "C_batch_size": 2,
    "device": "cpu",
}  # fmt: skip
WORDS = [*(word for name, value in SMALL.items() for word in (f"--{name}", str(value))), "--CoGradParams.enabled"]


@pytest.fixture(scope="module")
def prior():
    config = load_config([*WORDS, "true"])
    return IdealPrior(config.guidance, "cpu", 16, config.cameras, images=12)


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


