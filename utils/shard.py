# SPDX-License-Identifier: Apache-2.0
"""Shard: the part of a step's views that one process renders and distils."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """The views begin..end - 1 of a step's `total` views."""

    total: int
    begin: int
    end: int

    @classmethod
    def whole(cls, total: int) -> Self:
        """All views."""
        return cls(total, 0, total)

    @classmethod
    def of_rank(cls, rank: int, size: int, total: int) -> Self:
        """The views of process `rank` of `size`; shards differ by one view at most."""
        return cls(total, rank * total // size, (rank + 1) * total // size)

    def __len__(self) -> int:
        return self.end - self.begin

    def of(self, x: Any) -> Any:
        """The shard's part of x [total, ...], a tensor or a sequence."""
        return x[self.begin : self.end]

    def randn(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """The shard's part of normal numbers [total, ...] in the dtype of `like` [len(self), ...].

        All are drawn, so that the generators of all processes stay equal.
        """
        device = like.device if generator is None else generator.device
        drawn = torch.randn((self.total, *like.shape[1:]), generator=generator, device=device, dtype=like.dtype)
        return self.of(drawn).to(like.device)
