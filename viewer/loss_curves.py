# SPDX-License-Identifier: Apache-2.0
"""The losses of a run as curves of bounded length, however long the run."""

import math
from collections.abc import Mapping

import numpy as np

MOST = 1000  # points of a curve; half of them are merged into their neighbours when there are more


class LossCurves:
    """Remembers the mean of each loss over `stride` steps a point, at most `most` points; the stride doubles when full.

    The first point stands for steps 1..stride, whether or not the run was seen from there. Numbers that are not finite
    are left out; losses have the names of the first step. `last` are the losses of the last step that was added.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.stride = most, 1
        self.names: tuple[str, ...] = ()
        self.last: dict[str, float] = {}
        self._points: dict[int, np.ndarray] = {}  # point -> [losses + 1]: sums, and how many steps they are of

    def add(self, iteration: int, losses: Mapping[str, float]) -> None:
        """One step. A run that went back overwrites what came after."""
        if not all(map(math.isfinite, losses.values())):
            return
        self.names, self.last = self.names or tuple(losses), dict(losses)
        point = (iteration - 1) // self.stride
        if self._points and point < next(reversed(self._points)):
            self._points = {k: sums for k, sums in self._points.items() if k < point}
        sums = self._points.setdefault(point, np.zeros(len(self.names) + 1))
        sums += [*(losses[name] for name in self.names), 1.0]
        while len(self._points) > self.most:  # twice where the first point is the second half of a pair
            self._merge()

    def table(self) -> np.ndarray:
        """float64 [losses + 1, points]: the last iteration of each point, then the mean of each loss."""
        if not self._points:
            return np.zeros((len(self.names) + 1, 0))
        sums = np.stack(list(self._points.values()))
        last = (np.array(list(self._points)) + 1) * self.stride
        return np.concatenate([last[None].astype(float), (sums[:, :-1] / sums[:, -1:]).T])

    def _merge(self) -> None:
        """Pairs of neighbours become one point."""
        self.stride *= 2
        merged: dict[int, np.ndarray] = {}
        for point, sums in self._points.items():
            merged[point // 2] = merged.get(point // 2, 0.0) + sums
        self._points = merged
