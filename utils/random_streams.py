# SPDX-License-Identifier: Apache-2.0
"""All randomness of a run in one object that is passed around and can be saved.

Upstream draws from three global streams (Python, NumPy, torch) and one generator of its guidance. Seeding the explicit
streams below with the same numbers gives the same draws, so the baseline can be compared draw by draw.
"""

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]  # tensors, lists of numbers, ints, strings: fit for JSON beside safetensors


class RandomStreams:
    """Remembers four streams: `python`, `numpy`, `torch` (seed `seed`) and `noise` (the guidance's, seed `noise_seed`).

    `torch` and `noise` live on `device`; tensors drawn with `rand` and `randn` come out there.
    """

    def __init__(self, seed: int, noise_seed: int = 0, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.seed, self.noise_seed = seed, noise_seed
        self.python, self.numpy = random.Random(), np.random.RandomState()
        self.torch, self.noise = torch.Generator(self.device), torch.Generator(self.device)
        self._start()

    def _start(self) -> None:
        """Each stream from its seed."""
        self.python.seed(self.seed)
        self.numpy.seed(self.seed)
        self.torch.manual_seed(self.seed)
        self.noise.manual_seed(self.noise_seed)

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform [0, 1) float32 tensor from the torch stream."""
        return torch.rand(shape, generator=self.torch, device=self.device)

    def randn(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 tensor from the torch stream."""
        return torch.randn(shape, generator=self.torch, device=self.device)

    def renew_noise(self, times: int) -> None:
        """Begin a noise stream that no run has seen before its `times`-th renewal."""
        self.noise.manual_seed((self.noise_seed + 1_000_003 * times) % 2**63)

    def state_dict(self) -> State:
        """Everything that decides the next draws, as plain lists, ints, strings and tensors."""
        version, words, gauss = self.python.getstate()
        numpy_state: Any = self.numpy.get_state(legacy=True)
        return {
            "device_type": self.device.type,
            "python_version": version,
            "python_words": list(words),
            "python_gauss": [] if gauss is None else [gauss],
            "numpy_words": [int(word) for word in numpy_state[1]],
            "numpy_position": int(numpy_state[2]),
            "numpy_gauss": [int(numpy_state[3]), float(numpy_state[4])],
            "torch": self.torch.get_state(),
            "noise": self.noise.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken; a stream that is not in it starts from its seed.

        ValueError for another device type, whose generator differs.
        """
        if state["device_type"] != self.device.type:
            raise ValueError(
                f"random state was saved on {state['device_type']!r} and cannot continue on {self.device.type!r}; "
                f"resume with device: {state['device_type']}"
            )
        self._start()
        if "python_words" in state:
            gauss = state["python_gauss"]
            self.python.setstate((state["python_version"], tuple(state["python_words"]), gauss[0] if gauss else None))
        if "numpy_words" in state:
            words = np.array(state["numpy_words"], dtype=np.uint32)
            self.numpy.set_state(("MT19937", words, state["numpy_position"], *state["numpy_gauss"]))
        for name in ("torch", "noise"):
            if name in state:
                getattr(self, name).set_state(torch.as_tensor(state[name], dtype=torch.uint8).cpu())
