# SPDX-License-Identifier: Apache-2.0
"""resolve_device: names become devices that are there, or one clear sentence."""

import pytest
import torch

from utils.device import MIN_PARALLEL_NUMEL, resolve_device, threads_for


def pretend(monkeypatch, gpus, built_with="12.6"):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.version, "cuda", built_with)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    pretend(monkeypatch, 0)
    assert resolve_device("auto") == torch.device("cpu")
    pretend(monkeypatch, 2)
    assert resolve_device("auto") == torch.device("cuda", 0)


def test_named_devices(monkeypatch):
    pretend(monkeypatch, 2)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cpu:0", "CUDA", "cuda:-1", "cpu\n"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"given: expected auto, cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize(
    "gpus, built_with, message",
    [
        (0, None, r"device 'cuda:1' given, but this torch was built without CUDA; use --device cpu, or install"),
        (0, "12.6", r"device 'cuda:1' given, but no usable GPU was found; use --device cpu"),
        (1, "12.6", r"device 'cuda:1' given, but this machine has 1 GPU; use cuda:0 to cuda:0"),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, gpus, built_with, message):
    pretend(monkeypatch, gpus, built_with)
    with pytest.raises(ValueError, match=message):
        resolve_device("cuda:1")


def test_little_work_takes_one_thread_and_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(RuntimeError, match="broken off"), threads_for(1000):
            assert torch.get_num_threads() == 1
            raise RuntimeError("broken off")
        assert torch.get_num_threads() == 2
        with threads_for(MIN_PARALLEL_NUMEL):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
