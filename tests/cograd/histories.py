# SPDX-License-Identifier: Apache-2.0
"""Region histories for tests."""

from cograd.history import RegionHistory


def history_of(losses: dict[int, list[float]], count: int = 4) -> RegionHistory:
    """`count` regions that have seen these losses, in this order."""
    history = RegionHistory(count)
    for region, seen in losses.items():
        for loss in seen:
            history.add(region, loss)
    return history
