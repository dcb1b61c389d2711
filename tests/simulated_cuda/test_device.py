# SPDX-License-Identifier: Apache-2.0
"""The simulated GPU itself: what it refuses and counts, so that a test that passes on it says something."""

import pytest
import torch

from simple_knn._C import distCUDA2
from tests.drawn import Draws
from tests.simulated_cuda.memory import SimulationError

HOST = torch.arange(6.0)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + HOST,
        lambda x: torch.cat([x, HOST]),
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: x.view(2, 3) @ HOST.view(3, 2),
        lambda x: torch.where(x > 2, x, HOST),
        lambda x: HOST.index_select(0, x.long()),
        lambda x: (x.requires_grad_() * x).backward(HOST),
    ],
    ids=["add", "cat", "stack of scalars", "matmul", "where", "index_select", "backward"],
)
def test_tensors_of_two_devices_do_not_meet(gpu, mix):
    x = HOST.to("cuda")
    with pytest.raises(SimulationError):
        mix(x)


def test_what_torch_allows_is_allowed(gpu):
    x = HOST.to("cuda")
    y = x * torch.tensor(2.0) + 1
    y[1:3] = 0
    assert y.device == torch.device("cuda", 0) and y.is_cuda and not y.is_cpu and y.cpu().tolist() == [1, 0, 0, 7, 9, 11]
    assert torch.zeros_like(y).is_cuda and y.new_empty(3).is_cuda and y.to(HOST).device.type == "cpu"
    assert torch.nn.Linear(2, 2).to("cuda").weight.is_cuda and torch.tensor([1], device="cuda").is_cuda


@pytest.mark.parametrize(
    ("read", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x[x > 2], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: HOST.to("cuda"), 1),
        (lambda x: HOST.to("cuda", non_blocking=True), 0),
        (lambda x: x.sum() + x.amax(), 0),
        (lambda x: torch.where(x > 2, x, 0.0), 0),
        (lambda x: HOST.sum().item(), 0),
    ],
)
def test_waits_are_counted(gpu, read, waits):
    x = HOST.to("cuda")
    gpu.waits.clear()
    read(x)
    assert sum(gpu.waits.values()) == waits, gpu.waits


def test_distances_of_points_on_the_device_come_back_to_it(gpu):
    points = Draws(0).uniform(50, 3)
    found = distCUDA2(points.to("cuda"))
    assert found.is_cuda and found.cpu().tolist() == distCUDA2(points).tolist()


def test_host_indices_are_counted(gpu):
    x = HOST.to("cuda")
    assert x[torch.tensor([1, 2])].is_cuda and sum(gpu.host_indices.values()) == 1
    assert x[torch.tensor([1, 2], device="cuda")].is_cuda and sum(gpu.host_indices.values()) == 1


def test_the_host_reads_no_memory_of_the_device(gpu):
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        HOST.to("cuda").numpy()
    with pytest.raises(SimulationError, match="expected a generator on cuda, given one on cpu"):
        torch.rand(2, generator=torch.Generator(), device="cuda")


def test_bytes_are_counted_and_may_not_suffice(gpu):
    x = torch.zeros(1000, device="cuda")
    before = gpu.live_bytes()
    y = x + 1
    assert gpu.live_bytes() == before + 4000 and gpu.peak_bytes >= before + 4000
    del y
    assert gpu.live_bytes() == before
    gpu.capacity_bytes = before + 5000
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\. Tried to allocate 8000 bytes"):
        torch.cat([x, x])
    assert gpu.live_bytes() == before and (x + 1).is_cuda


def test_gradients_are_where_their_tensors_are(gpu):
    x = Draws(0).normal(3, 2).requires_grad_()
    (x.to("cuda") ** 2).sum().backward()
    assert x.grad.device.type == "cpu" and torch.equal(x.grad, 2 * x.detach())
