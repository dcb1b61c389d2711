# SPDX-License-Identifier: Apache-2.0
"""A run of Stable Diffusion without a GPU says so; one that a CPU is meant for does not, nor does one on a GPU."""

import json

import pytest
import torch

from arguments.load import load_config
from trainer.startup import device_notices

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
