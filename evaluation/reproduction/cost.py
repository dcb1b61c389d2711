# SPDX-License-Identifier: Apache-2.0
"""What the assets that are left cost, estimated before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEP_PFLOP = 0.0348
"""A LucidDreamer step of 4 views of 512 px: 5 + 1 inversion forwards, guidance, VAE; docs/evaluation.md has the sum."""
STEPS = 6000
ASSET_MB = {"sd": 120.0, "toy": 1.4, "toy-trained": 1.4}
TOY_RUN_S = {"toy": 16.0, "toy-trained": 18.0}
"""Seconds of one core a toy run of the default size; benchmarks/results/reproduce.md has the machine."""


@dataclass(frozen=True)
class Cost:
    """Of what is left to be made."""

    assets: int
    hours: float  # of wall-clock time
    disk_gb: float
    why: str

    def __str__(self) -> str:
        if not self.assets:
            return "Nothing is left to make"
        minutes = math.ceil(60 * self.hours)
        time = f"{self.hours:.1f} hours" if self.hours >= 1 else f"{minutes} minute{'' if minutes == 1 else 's'}"
        disk = f"{self.disk_gb:.1f} GB" if self.disk_gb >= 1 else f"{1000 * self.disk_gb:.0f} MB"
        what = "1 asset" if self.assets == 1 else f"{self.assets} assets"
        return f"{what} to make: about {time} ({self.why}) and {disk}"


def cost(prior: str, left: int, jobs: int, measured_s: Sequence[float], tflops: float) -> Cost:
    """Of `left` assets, `jobs` at a time. `measured_s`: seconds of assets that were made before with the same flags."""
    if measured_s:
        asset_s = sum(measured_s) / len(measured_s)
        why = f"{asset_s:.0f} s an asset, as the {len(measured_s)} made before"
    elif prior in TOY_RUN_S:
        asset_s = TOY_RUN_S[prior]
        why = f"{asset_s:.0f} s an asset on a core of the machine it was measured on"
    else:
        asset_s = STEP_PFLOP * STEPS * 1e3 / tflops
        why = f"{STEP_PFLOP * STEPS:.0f} PFLOP an asset at {tflops:g} TFLOP/s"
    hours = left * asset_s / max(jobs, 1) / 3600
    return Cost(left, hours, left * ASSET_MB[prior] / 1000, f"{why}, {jobs} at a time")
