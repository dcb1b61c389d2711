# SPDX-License-Identifier: Apache-2.0
"""What is remembered of each region between steps.

| symbol | name | unit |
|---|---|---|
| n | visits | - |
| L, L_before | last loss, and the one before it | loss |
| L_bar | mean of the first n - 1 losses | loss |
| L_ema | moving average of all losses | loss |
| t_local | local state of Eq. (8) | share of T |
"""

from typing import Any

import numpy as np
import torch

STARVED_BELOW = 5  # visits; what the log calls a starved region


class RegionHistory:
    """Arrays [N] of the symbols above, one entry a region, and the number of losses `refused` for not being finite.

    Losses are whatever the caller calls one, not negative.

    DECISION: the paper names no factor of the moving average; it keeps 0.9 of itself, starts at the first loss, and
    a loss is compared with the average of those before it.
    """

    ARRAYS = ("n", "L", "L_before", "L_bar", "L_ema", "t_local")

    def __init__(self, regions: int, ema_factor: float = 0.9) -> None:
        self.ema_factor = ema_factor
        self.n = np.zeros(regions, dtype=np.int64)
        self.L, self.L_before, self.L_bar, self.L_ema, self.t_local = (np.zeros(regions) for _ in range(5))
        self.refused = 0

    def __len__(self) -> int:
        return len(self.n)

    def differences(self, region: int, loss: float) -> tuple[float, float, float]:
        """(grad_L, grad2_L, dev_L) of a new loss of a region; 0 where that needs more history than there is."""
        n, last, before = int(self.n[region]), float(self.L[region]), float(self.L_before[region])
        grad_L = loss - last if n >= 1 else 0.0
        grad2_L = loss - 2 * last + before if n >= 2 else 0.0
        dev_L = loss - float(self.L_ema[region]) if n >= 1 else 0.0
        return grad_L, grad2_L, dev_L

    def add(self, region: int, loss: float) -> None:
        """Records one finite loss of a region. Raises ValueError below 0."""
        check_loss(region, loss)
        n, last = self.n[region], self.L[region]
        if n > 0:
            self.L_bar[region] += (last - self.L_bar[region]) / n
        self.L_ema[region] = self.ema_factor * self.L_ema[region] + (1 - self.ema_factor) * loss if n > 0 else loss
        self.L_before[region], self.L[region] = last, loss
        self.n[region] += 1

    def starved_share(self) -> float:
        """Share of the regions with fewer than five visits."""
        return np.count_nonzero(self.n < STARVED_BELOW) / len(self)

    def state_dict(self) -> dict[str, Any]:
        """All arrays as tensors, and the count."""
        return {name: torch.tensor(getattr(self, name)) for name in self.ARRAYS} | {"refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; ValueError for another number of regions."""
        if (saved := len(state["n"])) != len(self):
            raise ValueError(f"regions of the saved state: {saved}; expected {len(self)}, those of the grid")
        for name in self.ARRAYS:
            setattr(self, name, state[name].cpu().numpy().copy())
        self.refused = state["refused"]


def check_loss(region: int, loss: float) -> None:
    """ValueError for a loss below 0."""
    if loss < 0:
        raise ValueError(f"the loss of region {region} is {loss:g}; expected 0 or more, which Eq. (6) compares")
