# SPDX-License-Identifier: Apache-2.0
"""Inputs that are the same on every machine, drawn by NumPy.

torch's own normal numbers differ in their last digits with the vector width of the CPU (ATEN_CPU_CAPABILITY), so a
bound that one machine meets may fail on another; so do its exp, sqrt and norm. Draw here, in float64, and round once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """A stream of random tensors that follows from `seed` alone; floating-point ones have `dtype`."""

    def __init__(self, seed: int | Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype

    def tensor(self, values: np.ndarray) -> Tensor:
        """Values computed in float64, rounded to this stream's dtype."""
        return torch.from_numpy(np.asarray(values)).to(self.dtype)

    def normal(self, *shape: int) -> Tensor:
        return self.tensor(self.rng.standard_normal(shape))

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1]: rounding to float32 may give 1."""
        return self.tensor(self.rng.random(shape))

    def directions(self, *shape: int) -> Tensor:
        """Unit vectors along the last dimension, uniform on the sphere."""
        values = self.rng.standard_normal(shape)
        return self.tensor(values / np.linalg.norm(values, axis=-1, keepdims=True))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """In [low, high), int64."""
        return torch.from_numpy(np.asarray(self.rng.integers(low, high, shape)))

    def permutation(self, n: int) -> Tensor:
        return torch.from_numpy(self.rng.permutation(n))
