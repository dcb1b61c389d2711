# SPDX-License-Identifier: Apache-2.0
"""How each message that the documents show is provoked. PROVOKED: a part of the message -> what makes the program print it."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

import gaussian_renderer
import train
from arguments import Config
from arguments.load import load_config
from gaussian_renderer.network_gui import NetworkGui
from guidance.at_once import AtOnce
from tests.documented.commands import ROOT
from tests.offline import no_network
from tests.reliability.hooks import with_state
from toy import ideal
from toy.rendered_set import render_set
from trainer.memory_estimate import check_memory
from trainer.run_folder import RunFolder
from trainer.state import TrainState

SUBMODULES = ROOT / "submodules"
TINY_SD = ROOT / "tests" / "data" / "golden" / "tiny-sd"
TOY = {
    "guidance": "ideal", "sds": True, "perpneg": False, "text": "a red cube", "image_w": 16, "image_h": 16, "view_px": 16,
    "init_num_pts": 40, "C_batch_size": 2, "save_video": False, "test_ratio": 1, "iterations": 6, "max_faults_in_a_row": 2,
    "device": "cpu",
}  # fmt: skip
SD = {
    "init_shape": "sphere",
    "text": "a mug",
    "iterations": 1,
    "model_key": str(TINY_SD),
    "image_w": 16,
    "image_h": 16,
    "device": "cpu",
}
BESIDE = TOY | {"CoGradParams.enabled": True}
"""CoGrad at its own distances with LucidDreamer's lens."""


class Scene:
    """Where a message is provoked: a folder of its own, and patches that end with the test."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch

    def train(self, settings: dict[str, object], *words: str) -> int:
        """The exit status of train.py; its ideal prior looks at few images."""
        patched = lambda specs, ranges, size_px, *_: render_set(specs, ranges, size_px, 8)  # noqa: E731
        self.patch.setattr(ideal, "render_set", patched)
        settings = {"model_path": self.folder / "run", **settings}
        return train.main([*(word for key, value in settings.items() for word in (f"--{key}", str(value))), *words])

    def hub_answers(self, error: str) -> None:
        """Every download ends with this error of the hub's client."""

        def refuse(*_: object, **__: object) -> None:
            response = httpx2.Response(404, request=httpx2.Request("GET", "http://x"))
            raise OSError("wrapped") from getattr(errors, error)("no", response=response)

        self.patch.setattr("diffusers.StableDiffusionPipeline.download", refuse)

    def word(self, width: int) -> str:
        """A textual inversion of the word <zork>."""
        save_file({"<zork>": torch.ones(1, width)}, self.folder / "word.safetensors")
        return str(self.folder / "word.safetensors")

    def lora(self, value: float) -> str:
        """A LoRA of one layer of the tiny U-Net."""
        key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
        tensors = {f"{key}.lora_up.weight": torch.full((64, 2), value), f"{key}.lora_down.weight": torch.ones(2, 32)}
        save_file(tensors, self.folder / "lora.safetensors")
        return str(self.folder / "lora.safetensors")


def another_rasterizer(at: Scene) -> None:
    fork = types.ModuleType("diff_gaussian_rasterization")
    fork.__file__ = "/somewhere/else.py"
    with pytest.raises(ImportError) as refused:
        gaussian_renderer.check_rasterizer(fork)
    print(refused.value)


def no_compiler(at: Scene) -> None:
    shutil.copytree(SUBMODULES / "simple-knn", at.folder / "knn", ignore=shutil.ignore_patterns("build", "*.so"))
    words = [sys.executable, "setup.py", "build_ext", "--build-lib", "lib", "--build-temp", "temp"]
    environment = {**os.environ, "CXX": "/no/such/compiler"}
    built = subprocess.run(words, cwd=at.folder / "knn", env=environment, capture_output=True, text=True)
    assert built.returncode
    print(built.stderr)


def no_nvcc(at: Scene) -> None:
    source = SUBMODULES / "diff-gaussian-rasterization"
    spec = importlib.util.spec_from_file_location("cuda_build_here", source / "cuda_build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    at.patch.setenv("PATH", str(at.folder))
    for name in (*module.HOME_VARIABLES, "CONDA_PREFIX"):
        at.patch.delenv(name, raising=False)
    at.patch.setattr(module, "DEFAULT_HOMES", ())
    at.patch.setattr(module.sys, "prefix", str(at.folder))
    module.build(source / "csrc" / "cuda_api.cu", at.folder / "_cuda_kernels.so")


def removed_model(at: Scene) -> None:
    with no_network(at.folder):
        assert at.train(SD | {"model_key": "stabilityai/stable-diffusion-2-1-base"}) == 2


def model_of_the_hub(error: str) -> Callable[[Scene], None]:
    def provoke(at: Scene) -> None:
        if error:
            at.hub_answers(error)
        with no_network(at.folder):
            assert at.train(SD | {"model_key": "some/model"}) == 2

    return provoke


def model_not_here(at: Scene) -> None:
    at.patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(at.folder / "hub"))
    assert at.train(SD | {"model_key": "some/model", "memory_check": "off"}, "--dry-run") == 0


def python_objects(at: Scene) -> None:
    torch.save({"state_dict": {}, "callback": Scene}, at.folder / "x.ckpt")
    assert at.train(SD | {"model_key": at.folder / "x.ckpt", "base_model_key": TINY_SD}) == 2


def steps_without_numbers(at: Scene) -> None:
    at.patch.setattr(
        ideal.IdealPrior, "predict_noise", lambda self, x_t, t, embeddings: torch.full_like(x_t, torch.nan)
    )
    assert at.train(TOY) == 1


def every_step_skipped(at: Scene) -> None:
    """In a run that is too short for max_faults_in_a_row."""
    at.patch.setattr(
        ideal.IdealPrior, "predict_noise", lambda self, x_t, t, embeddings: torch.full_like(x_t, torch.nan)
    )
    assert at.train(TOY | {"max_faults_in_a_row": 20}) == 1


def out_of_sight(at: Scene) -> None:
    assert at.train(TOY | {"opacity_lr": 0, "densify_until_iter": 0}) == 1


def all_pruned(at: Scene) -> None:
    assert at.train(TOY | {"opacity_lr": 0, "densify_from_iter": 1, "densification_interval": 2}) == 1


def transparent(provoke: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """The same in a run whose Gaussians become transparent in its second step."""

    def make_transparent(state: TrainState) -> None:
        state.gaussians.parameters_in_order()["opacity"].data.fill_(-20)

    def provoked(at: Scene) -> None:
        with_state(at.patch, 2, make_transparent)
        provoke(at)

    return provoked


def port_in_use(at: Scene) -> None:
    with NetworkGui(port=0) as first, NetworkGui(port=first.port) as second:
        assert second.port != first.port


def page_port_in_use(at: Scene) -> None:
    pytest.importorskip("viser")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert at.train(TOY | {"viewer_port": taken.getsockname()[1]}) == 2


def too_little_memory(at: Scene) -> None:
    """On a GPU with 8 GB, by the shapes of Stable Diffusion 2.1 alone: cuda:0 need not be there."""
    at.patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    config = load_config(["--opt", str(ROOT / "configs" / "prompt.yaml"), "--device", "cpu"])
    check_memory(config, torch.device("cuda", 0), 8 * 10**9)


def too_many_points(at: Scene) -> None:
    at.patch.setattr("trainer.memory_estimate.free_bytes", lambda device: 10**9)
    assert at.train(TOY | {"init_num_pts": 50_000_000, "max_points": 50_000_000}, "--dry-run") == 2


def too_many_samples(at: Scene) -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    AtOnce("U-Net", "GuidanceParams.unet_batch", 0).run(network, torch.zeros(2))


def out_of_memory(at: Scene) -> None:
    def fail(state: TrainState) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with_state(at.patch, 2, fail)
    cograd = {"CoGradParams.enabled": True, "image_w": 128, "image_h": 128, "C_batch_size": 4, "init_num_pts": 20_000}
    assert at.train(TOY | cograd) == 1


def earlier_run(at: Scene) -> None:
    assert at.train(TOY | {"iterations": 1, "checkpoint_iterations": 1}) == 0
    assert at.train(TOY) == 2


def folder_in_use(at: Scene) -> None:
    config = Config()
    at.patch.setattr(Config, "output_dir", at.folder / "run")
    with RunFolder(config):
        assert at.train(TOY) == 2


def no_torch(at: Scene) -> None:
    words = [sys.executable, "-S", str(ROOT / "train.py")]  # -S: no package is to be seen
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert started.returncode == 2
    print(started.stderr)


def no_point_e(at: Scene) -> None:
    at.patch.setitem(sys.modules, "point_e", None)
    assert at.train(SD | {"init_shape": "pointe", "init_prompt": "a mug"}, "--dry-run") == 2


def dry_run(refused: bool, settings: dict[str, object], **files: Callable[[Scene], str]) -> Callable[[Scene], None]:
    """train.py --dry-run with these settings and files, and whether it is refused."""

    def provoke(at: Scene) -> None:
        made = {key: make(at) for key, make in files.items()}
        assert at.train(settings | made, "--dry-run") == (2 if refused else 0)

    return provoke


def run_with(**files: Callable[[Scene], str]) -> Callable[[Scene], None]:
    """A whole run of the tiny pipeline with these files."""

    def provoke(at: Scene) -> None:
        small = {"init_num_pts": 40, "save_video": False, "view_px": 16, "C_batch_size": 1, "perpneg": False}
        assert at.train(SD | small | {key: make(at) for key, make in files.items()}) == 0

    return provoke


PROVOKED: dict[str, Callable[[Scene], None]] = {
    "is another fork under the same name": another_rasterizer,
    "C++ compiler": no_compiler,
    "No CUDA in this build": no_nvcc,
    "was removed from the hub": removed_model,
    "could not be downloaded": model_of_the_hub(""),
    "is not on this machine; the start downloads it": model_not_here,
    "is gated": model_of_the_hub("GatedRepoError"),
    "does not exist (or is private)": model_of_the_hub("RepositoryNotFoundError"),
    "LoRA ... changes nothing": run_with(LoRA_path=lambda at: at.lora(0.0)),
    "learned word": run_with(textual_inversion_path=lambda at: at.word(32)),
    "LoRA ...: tensor": dry_run(True, SD, LoRA_path=lambda at: at.lora(float("nan"))),
    "has width": dry_run(True, SD, textual_inversion_path=lambda at: at.word(33)),
    "holds Python objects": python_objects,
    "the package point_e is not installed": no_point_e,
    "skipped: ": steps_without_numbers,
    "not finite, the last one because": steps_without_numbers,
    "most often because": every_step_skipped,
    "showed empty": transparent(out_of_sight),
    "every Gaussian was pruned": transparent(all_pruned),
    "listening on port": port_in_use,
    "choose another with --viewer_port": page_port_in_use,
    "run make setup once": no_torch,
    "a step of Stable Diffusion takes minutes": dry_run(False, SD | {"model_key": "some/model"}),
    "given, but": dry_run(True, TOY | {"device": "cuda:77"}),
    "free (...); set ... (saves": too_little_memory,
    "or GuidanceParams.memory_check": too_many_points,
    "(CoGradParams.enabled is false)": dry_run(False, TOY | {"tau": 0.2}),
    "CoGrad places the cameras": dry_run(False, TOY | {"CoGradParams.enabled": True, "phi_range": "-80,80"}),
    "CoGrad's regions 1.5": dry_run(False, BESIDE),
    "of the views hold the whole initial ball": dry_run(False, BESIDE),
    "begins with a shape of": dry_run(False, SD | {"opt": ROOT / "configs" / "gaussiandreamer.yaml", "init_shape": "shap_e"}),
    "out of memory in the": too_many_samples,
    "out of memory (": out_of_memory,
    "--resume auto continues it": earlier_run,
    "is in use by": folder_in_use,
    "names no object of the toy world": dry_run(True, TOY | {"text": "a dragon"}),
    "the toy world ignores": dry_run(False, TOY | {"text": "a house with a red door"}),
}
