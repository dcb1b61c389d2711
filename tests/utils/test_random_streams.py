# SPDX-License-Identifier: Apache-2.0
"""Random streams: equal to the global ones that upstream uses, and continued exactly from a saved state."""

import json
import random

import numpy as np
import pytest
import torch

from utils.random_streams import RandomStreams


@pytest.fixture
def global_streams():
    """Seeds the global streams, and puts them back as they were."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield lambda seed: (random.seed(seed), np.random.seed(seed), torch.manual_seed(seed))
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_state)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_draws_are_those_of_the_global_streams(global_streams, seed) -> None:
    global_streams(seed)
    streams = RandomStreams(seed)
    assert [streams.python.random(), streams.python.randint(0, 9)] == [random.random(), random.randint(0, 9)]
    assert np.array_equal(streams.numpy.rand(5), np.random.rand(5))
    assert torch.equal(streams.rand(3, 2), torch.rand(3, 2))
    assert torch.equal(streams.randn(40), torch.randn(40))
    stds = torch.rand(6)
    streams.rand(6)
    ours = torch.normal(torch.zeros(6), stds, generator=streams.torch)
    assert torch.equal(ours, torch.normal(torch.zeros(6), stds))


def test_the_noise_stream_has_its_own_seed() -> None:
    first, second = RandomStreams(1, noise_seed=5), RandomStreams(2, noise_seed=5)
    assert torch.equal(torch.randn(4, generator=first.noise), torch.randn(4, generator=second.noise))
    assert not torch.equal(first.randn(4), second.randn(4))


def _draw(streams: RandomStreams) -> list[float]:
    noise = torch.randn(3, generator=streams.noise).tolist()
    return [streams.python.gauss(0, 1), streams.numpy.randn(), *streams.randn(3).tolist(), *streams.rand(2).tolist(), *noise]


def test_a_saved_state_continues_exactly() -> None:
    streams = RandomStreams(3)
    for _ in range(5):
        _draw(streams)  # an odd number of normals: the cached second one is part of the state
    state = streams.state_dict()
    plain = {name: value for name, value in state.items() if not torch.is_tensor(value)}
    tensors = {name: value.clone() for name, value in state.items() if torch.is_tensor(value)}
    wanted = [_draw(streams) for _ in range(3)]
    resumed = RandomStreams(99, noise_seed=98)
    resumed.load_state_dict({**json.loads(json.dumps(plain)), **tensors})
    assert [_draw(resumed) for _ in range(3)] == wanted


def test_a_state_of_another_device_is_refused() -> None:
    state = {**RandomStreams(0).state_dict(), "device_type": "cuda"}
    with pytest.raises(ValueError, match="saved on 'cuda' and cannot continue on 'cpu'; resume with device: cuda"):
        RandomStreams(0).load_state_dict(state)
