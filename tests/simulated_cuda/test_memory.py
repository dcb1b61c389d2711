# SPDX-License-Identifier: Apache-2.0
"""The memory of the simulated GPU: what a save takes of it, where the bank is, and what a run does when it is full."""

import json
from functools import wraps

import pytest
import torch

from arguments import Config
from arguments.exit_codes import FINISHED, STOPPED
from arguments.load import load_config
from guidance.sd_utils import StableDiffusion
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws
from tests.simulated_cuda.conftest import run, words_of
from toy.ideal import IdealPrior
from trainer.memory_estimate import ModelSize, estimate
from trainer.outputs import RunOutputs
from trainer.recovery import Recovery
from trainer.state import TrainState
from trainer.workers import Workers
from utils.tree_file import load_tree, moved, save_tree


@pytest.fixture
def full(gpu, monkeypatch):
    """full(kind, name, when): while that method runs for the `when`-th time, nothing more fits into the GPU."""

    def during(kind, name, when=1):
        method, calls = getattr(kind, name), []

        @wraps(method)
        def squeezed(*args, **kwargs):
            calls.append(1)
            if len(calls) != when:
                return method(*args, **kwargs)
            capacity, gpu.capacity_bytes = gpu.capacity_bytes, gpu.live_bytes()
            try:
                return method(*args, **kwargs)
            finally:
                gpu.capacity_bytes = capacity

        monkeypatch.setattr(kind, name, squeezed)

    return during


def state_with_a_bank(folder, **settings) -> tuple[TrainState, Config]:
    """A run's state before its first step, with five stored gradients of its 200 Gaussians."""
    config = load_config(words_of("ideal", folder, iterations=100, enabled="true", fusion_range="0.0,1.0", **settings))
    state = TrainState.start(config, "cuda")
    state.begin_cograd(config, torch.linspace(0.999, 0.001, 1000))
    draws = Draws(0)
    parameters = state.gaussians.parameters_in_order()
    for region in range(5):
        gradient = {name: draws.normal(*p.shape).to("cuda") for name, p in parameters.items() if name != "background"}
        state.cograd.bank.store(50, region, 500, gradient)
    return state, config


def bank_devices(state: TrainState) -> set[str]:
    assert len(state.cograd.bank) == 5
    return {entry.gradient.vector.device.type for entry in state.cograd.bank.entries.values()}


def test_a_checkpoint_takes_nothing_of_the_gpu(gpu, tmp_path):
    """Bank, parameters and moments go to main memory tensor by tensor."""
    state, _ = state_with_a_bank(tmp_path)
    for p in state.gaussians.parameters_in_order().values():
        p.grad = torch.zeros_like(p)
    state.optimizer.step()
    gpu.by_place, gpu.capacity_bytes = True, gpu.live_bytes()
    save_tree(tmp_path / "chkpnt1.safetensors", {"train": state.state_dict()})
    assert gpu.allocated == {}


def reloaded(state: TrainState, folder) -> dict:
    save_tree(folder / "x.safetensors", state.state_dict())
    return load_tree(folder / "x.safetensors")


CARRIED = {
    "resume or rollback": reloaded,
    "to a worker": lambda state, folder: moved(state.state_dict(), "cpu"),
    "already on the GPU": lambda state, folder: moved(state.state_dict(), "cuda"),
}


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("carried", CARRIED)
def test_the_bank_stays_where_it_was_asked_to_be(gpu, tmp_path, carried, on_cpu):
    state, _ = state_with_a_bank(tmp_path / "a", bank_on_cpu=str(on_cpu).lower())
    assert bank_devices(state) == {"cpu" if on_cpu else "cuda"}
    other, _ = state_with_a_bank(tmp_path / "b", bank_on_cpu=str(on_cpu).lower())
    other.load_state_dict(CARRIED[carried](state, tmp_path))
    assert bank_devices(other) == {"cpu" if on_cpu else "cuda"}


def check_told(text: str) -> None:
    """One sentence: what happened, what saves memory, largest first, in the numbers of the estimate."""
    (line,) = [line for line in text.splitlines() if "out of memory" in line.lower()]
    assert "CUDA out of memory" in line and "set " in line and "saves about" in line
    saved = [float(part.split(" ")[0]) * (1000 if part.split(" ")[1].startswith("GB") else 1) for part in line.split("saves about ")[1:]]
    assert saved == sorted(saved, reverse=True)


@pytest.mark.parametrize("prior", ["ideal", pytest.param("SD", marks=pytest.mark.device)])
def test_out_of_memory_in_a_step(full, gpu, tmp_path, capsys, prior):
    kind = StableDiffusion if prior == "SD" else IdealPrior
    settings = {"iterations": 3, "distillation": "sds", "keep_checkpoints": 1, "checkpoint_every": 0}
    full(kind, "predict_noise", when=3)  # one call a step
    assert run(prior, tmp_path, **settings) == STOPPED
    told = capsys.readouterr().err
    check_told(told)
    assert f"Resume with --resume {tmp_path}" in told and "Traceback" not in told
    assert (tmp_path / "point_cloud/iteration_2/point_cloud.ply").is_file()
    assert (tmp_path / "chkpnt2.safetensors").is_file()
    assert run(prior, tmp_path, **settings, resume="auto") == FINISHED
    steps = [json.loads(line)["iteration"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (IdealPrior, "__init__"),
        pytest.param(Recovery, "save", marks=pytest.mark.device),
        pytest.param(GaussianModel, "densify_and_prune", marks=pytest.mark.device),
        pytest.param(TrainState, "begin_cograd", marks=pytest.mark.device),
    ],
)
def test_out_of_memory_anywhere_else_ends_with_a_sentence(full, tmp_path, capsys, kind, name):
    """A checkpoint needs none of the GPU: only there the run continues."""
    full(kind, name)
    status = run(
        "ideal", tmp_path, iterations=2, densify_from_iter=1, densification_interval=1, densify_until_iter=9, checkpoint_iterations=1
    )  # fmt: skip
    told = capsys.readouterr().err
    assert "Traceback" not in told
    if name == "save":
        assert status == FINISHED and (tmp_path / "chkpnt1.safetensors").is_file()
    else:
        assert status == STOPPED
        check_told(told)


@pytest.mark.parametrize("name", ["test_views", pytest.param("videos", marks=pytest.mark.device)])
def test_out_of_memory_in_an_output_costs_that_output(full, tmp_path, capsys, name):
    full(RunOutputs, name)
    assert run("ideal", tmp_path, iterations=2, save_video=str(name == "videos").lower()) == STOPPED
    told = "".join(capsys.readouterr())
    check_told(told)
    kind = {"test_views": "test views", "videos": "turntable"}[name]
    assert f"{kind} could not be written" in told and f"not all could be written: {kind} (1 time)" in told
    assert (tmp_path / "point_cloud/iteration_2/point_cloud.ply").is_file()


def test_workers_get_the_bank_by_way_of_main_memory(gpu, tmp_path):
    state, _ = state_with_a_bank(tmp_path)
    sent = []
    world = type("World", (), {"size": 2, "broadcast": lambda self, message: sent.append(message)})()
    gpu.by_place = True
    Workers(world).begin_step(state)
    assert gpu.allocated == {}
    assert all(x.device.type == "cpu" for x in torch.utils._pytree.tree_leaves(sent) if torch.is_tensor(x))


@pytest.mark.device
@pytest.mark.parametrize("prior", ["ideal", "SD"])
def test_the_peak_is_within_the_estimate(gpu, tmp_path, prior):
    """What torch tensors take, with fusion at every step; the workspaces of CUDA's libraries are not simulated."""
    settings = {"iterations": 3, "fusion_range": "0.0,1.0", "max_step_share": 0.9, "init_num_pts": 2000, "distillation": "sds"}
    assert run(prior, tmp_path, **settings) == FINISHED
    config = load_config(words_of(prior, tmp_path, **settings))
    parts = estimate(config, torch.device("cuda"), ModelSize.of(config))
    assert gpu.peak_bytes <= sum(parts.values()) - parts["workspace"], parts
