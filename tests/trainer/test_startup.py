# SPDX-License-Identifier: Apache-2.0
"""Notices at the start: Stable Diffusion without a GPU, an initial shape of another prompt than the run's."""

import json
from pathlib import Path

import pytest
import torch

from arguments.load import load_config, to_yaml
from trainer.startup import device_notices, start_notices

TOY = ["--opt", "configs/quickstart_trained.yaml"]
SD = ["--opt", "configs/prompt.yaml", "--text", "a corgi"]


def notices(monkeypatch, words, gpus: int = 0) -> list[str]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    return device_notices(load_config(words))


@pytest.mark.parametrize(
    ("words", "built_with", "reason"),
    [
        ([], "13.0", "no usable GPU was found"),
        ([], None, "this torch was built without CUDA"),
        (["--device", "cpu"], "13.0", "device: cpu"),
        (["--vram_O", "true"], "13.0", "no usable GPU was found"),
    ],
)
def test_stable_diffusion_on_a_cpu_is_reported_with_the_reason(monkeypatch, words, built_with, reason) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_with)
    (notice,) = notices(monkeypatch, [*SD, *words])
    assert notice == f"no GPU is used ({reason}): a step of Stable Diffusion takes minutes on a CPU, a run weeks"


@pytest.mark.parametrize("words", [TOY, ["--opt", "configs/quickstart.yaml"], [*TOY, "--device", "cpu"]], ids=" ".join)
def test_an_embedded_prior_is_not(monkeypatch, words) -> None:
    assert not notices(monkeypatch, words)


@pytest.mark.parametrize("words", [SD, [*SD, "--device", "cuda"]], ids=["auto", "cuda"])
def test_nor_is_a_run_on_a_gpu(monkeypatch, words) -> None:
    assert not notices(monkeypatch, words, gpus=1)


@pytest.mark.parametrize(
    ("channels", "is_reported"), [([32, 64], False), ([320, 640, 1280, 1280], True), ("damaged", True), (["a"], True), (None, True)]
)
def test_a_model_in_a_folder_counts_by_its_size(monkeypatch, tmp_path, channels, is_reported) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"block_out_channels": channels}))
    assert bool(notices(monkeypatch, [*SD, "--model_key", str(tmp_path)])) == is_reported


def starts(*words: str) -> list[str]:
    return start_notices(load_config(list(words)))


@pytest.mark.parametrize("name", ["axe", "bagel", "cat_armor", "gaussiandreamer", "zombie_joker"])
def test_a_new_text_with_the_files_initial_shape_is_reported(name) -> None:
    opt = ["--opt", f"configs/{name}.yaml"]
    start = load_config(opt).cameras.init_prompt
    [notice] = starts(*opt, "--text", "a corgi")
    assert f"GenerateCamParams.init_prompt = '{start}'" in notice and "GuidanceParams.text is 'a corgi'" in notice
    for fitting in ([], ["--text", start], ["--text", "a corgi", "--init_prompt", "a dog"], ["--text", "a corgi", "--init_shape", "sphere"]):
        assert not starts(*opt, *fitting), fitting


def test_the_same_holds_for_a_settings_file_of_ones_own(tmp_path) -> None:
    both, text = tmp_path / "both.yaml", tmp_path / "text.yaml"
    both.write_text("GenerateCamParams: {init_shape: pointe, init_prompt: a dog}\nGuidanceParams: {text: a corgi}\n")
    text.write_text(f"base: {Path('configs/bagel.yaml').resolve()}\nGuidanceParams: {{text: a corgi}}\n")
    assert not starts("--opt", str(both))
    assert len(starts("--opt", str(both), "--text", "a cat")) == len(starts("--opt", str(text))) == 1


def test_a_run_that_is_resumed_is_not_reported(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(["--opt", "configs/bagel.yaml", "--text", "a corgi"])))
    assert not starts("--resume", str(tmp_path))
