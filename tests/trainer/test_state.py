# SPDX-License-Identifier: Apache-2.0
"""A run continued from a checkpoint is the unbroken run, bit for bit."""

from pathlib import Path

import pytest
import torch

from arguments.load import load_config
from guidance.prompts import PromptEmbeddings
from tests.trees import equal
from trainer.state import TrainState
from trainer.step import apply_update, compute_gradients
from utils.tree_file import load_tree, save_tree


def _config(folder: Path):
    small = {
        "iterations": 14, "densify_from_iter": 2, "densification_interval": 4, "opacity_reset_interval": 6, "densify_until_iter": 13,
        "densify_grad_threshold": 1e-7, "scale_up_cameras_iter": 5, "progressive_view_iter": 5, "warmup_iter": 10,
        "image_w": 16, "image_h": 16, "init_num_pts": 60, "sh_degree": 1, "C_batch_size": 2, "text": "a thing", "fix_noise": True,
        "perpneg": False, "device": "cpu", "model_path": str(folder),
    }  # fmt: skip
    return load_config([word for name, value in small.items() for word in (f"--{name}", str(value))])


def _run(state: TrainState, prior, config, until: int) -> TrainState:
    prompts = PromptEmbeddings(prior, config.guidance)
    while state.iteration < until:
        apply_update(state, compute_gradients(state, prior, prompts, config), config)
    return state


@pytest.mark.parametrize("cut", [1, 3, 4, 6, 9])
def test_resumed_run_equals_the_unbroken_one(tmp_path, prior, cut) -> None:
    whole = _run(TrainState.start(_config(tmp_path / "whole"), "cpu"), prior, _config(tmp_path / "whole"), 14)
    config = _config(tmp_path / "cut")
    save_tree(tmp_path / "state", _run(TrainState.start(config, "cpu"), prior, config, cut).state_dict())
    resumed = TrainState.start(config, "cpu")
    resumed.load_state_dict(load_tree(tmp_path / "state"))
    _run(resumed, prior, config, 14)
    assert len(whole.gaussians.get_xyz) > 60  # densification was in play
    assert equal(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("bank_on_cpu", [True, False])
def test_the_bank_comes_back_where_the_settings_have_it(tmp_path, prior, monkeypatch, bank_on_cpu) -> None:
    """A device of the Gaussians that can be told from main memory, which it is. Checkpoints are read to main memory."""
    flags = ["--CoGradParams.enabled", "true", "--fusion_range", "0", "1", "--max_step_share", "0.9", "--bank_on_cpu", str(bank_on_cpu), "--perpneg", "false"]
    config = load_config(["--text", "x", "--init_num_pts", "60", "--image_w", "16", "--image_h", "16", "--device", "cpu", "--model_path", str(tmp_path), "--C_batch_size", "2", *flags])
    first, second = (TrainState.start(config, "cpu") for _ in range(2))
    for state in (first, second):
        state.begin_cograd(config, prior.alphas_cumprod)
    save_tree(tmp_path / "state", _run(first, prior, config, 2).state_dict())
    tree, places = load_tree(tmp_path / "state"), []
    entries = tree["cograd"]["bank"]["entries"]
    assert entries and all(x.device.type == "cpu" for entry in entries.values() for x in entry["gradient"].values())
    second.gaussians.device = gpu = torch.device("cpu", 0)
    monkeypatch.setattr("trainer.state.moved", lambda part, device: places.append((part is tree["cograd"]["bank"], device)) or part)
    second.load_state_dict(tree)
    assert (True, "cpu" if bank_on_cpu else gpu) in places


def test_two_runs_from_one_seed_are_identical(tmp_path, prior) -> None:
    configs = [_config(tmp_path / name) for name in ("first", "second")]
    first, second = (_run(TrainState.start(config, "cpu"), prior, config, 9) for config in configs)
    assert equal(first.state_dict(), second.state_dict())


def test_checkpoint_of_another_sh_degree_is_refused(tmp_path, prior) -> None:
    config = _config(tmp_path)
    state = TrainState.start(config, "cpu").state_dict()
    other = TrainState.start(
        load_config(["--text", "x", "--sh_degree", "0", "--init_num_pts", "60", "--model_path", str(tmp_path)]), "cpu"
    )
    with pytest.raises(ValueError, match=r"keep ModelParams\.sh_degree"):
        other.load_state_dict(state)
