# SPDX-License-Identifier: Apache-2.0
"""Free and peak memory of the machine that the test runs on, and of a made-up container."""

import torch

from utils import memory
from utils.memory import free_bytes, in_gb, peak_bytes, peak_in_words

CPU = torch.device("cpu")


def test_a_large_tensor_raises_the_peak():
    before = peak_bytes(CPU)["main"]
    block = torch.ones(before // 4 + 10**7)  # float32: all that was held before, and 40 MB
    assert peak_bytes(CPU)["main"] > before + 10**7 and len(block)
    del block
    assert set(peak_bytes(CPU)) == {"main"}


def test_the_containers_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "memory.current").write_text("1000000\n")
    for limit, free in (("max", 5_120_000), ("3000000", 2_000_000), ("900000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_bytes(CPU) == free
    (tmp_path / "memory.max").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300000\nactive_file 7\n")
    assert free_bytes(CPU) == 200_000  # what was read from files gives way


def test_a_machine_that_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "gone")
    assert free_bytes(CPU) is None


def test_a_gpus_tensors_are_told_beside(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5_100_000_000)
    assert peak_in_words(torch.device("cuda", 1)).endswith(" of main memory, 5.1 GB in tensors on cuda:1")
    assert peak_in_words(CPU).endswith("B of main memory")


def test_bytes_in_words():
    assert [in_gb(n) for n in (1_440_000_000, 99_000_000, 0)] == ["1.4 GB", "99.0 MB", "0.0 MB"]
