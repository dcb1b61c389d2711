# SPDX-License-Identifier: Apache-2.0
"""What configs/prompt.yaml is meant to take at full size, by GPU; docs/performance.md has the arithmetic."""

from dataclasses import dataclass

STEPS = 6000  # of configs/prompt.yaml
MEAN_T = 450  # a step at this timestep costs what the run's steps cost in the mean (benchmarks/budget.py)
VIEWS = 4
MOST_RASTERIZER_SHARE = 0.05  # of a step, forward and backward


@dataclass(frozen=True)
class Goal:
    """Seconds of a whole run; None: no goal."""

    ism_s: float | None = None
    sds_s: float | None = None  # two U-Net samples a view


GOALS = {"H100": Goal(720, 300), "H200": Goal(720, 300), "A100": Goal(1800)}
"""Part of a GPU's name -> its goal. An H200 computes as an H100 does."""


def judged(gpu: str, ism_ms: float, sds_ms: float, rasterizer_ms: float) -> list[tuple[str, bool]]:
    """One line for each goal, and whether it is met.

    ism_ms, sds_ms: a step of four views at MEAN_T; rasterizer_ms: forward and backward of one view.
    """
    goal = next((goal for name, goal in GOALS.items() if name in gpu), Goal())
    share = VIEWS * rasterizer_ms / ism_ms
    lines = [(f"rasterizer: {share:.1%} of a step, goal {MOST_RASTERIZER_SHARE:.0%}", share <= MOST_RASTERIZER_SHARE)]
    for name, ms, most_s in (("ISM", ism_ms, goal.ism_s), ("SDS", sds_ms, goal.sds_s)):
        taken_s = STEPS * ms / 1e3
        wanted = f"{most_s / 60:.0f} min" if most_s else "none for this GPU"
        lines.append((f"{name}, {STEPS} steps: {taken_s / 60:.1f} min, goal {wanted}", not most_s or taken_s <= most_s))
    return lines
