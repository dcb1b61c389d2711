# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in a run's numbers: counts it, says when to go back to a checkpoint, and when and why to stop."""

from collections import Counter
from collections.abc import Mapping

import torch

from utils.wording import counted

OPAQUE = 1e-3  # a view in which no pixel is covered more than this shows nothing
LARGE = 1e6  # world units; no scene is so far away or so big


class TrainingStopped(RuntimeError):
    """Training cannot continue; the message says why and what to try."""


def cause_of(fault: str) -> str:
    """What went wrong, without the views and timesteps that stand in parentheses."""
    return fault.split(" (")[0]


def skipped_too_many(
    steps: int, skipped: Mapping[str, int], last_fault: str | None, parameters: Mapping[str, torch.Tensor]
) -> str | None:
    """Why a run of `steps` steps has not succeeded although it did the last one: most steps, or the last, were skipped.

    skipped: their number by cause. None for a run that has succeeded.
    """
    count = sum(skipped.values())
    if last_fault is None and 2 * count <= steps:
        return None
    cause, times = max(skipped.items(), key=lambda item: item[1])
    last = ", the last one included" if last_fault else ""
    return (
        f"{count:,} of {counted(steps, 'step')} {'was' if count == 1 else 'were'} skipped{last}, most often because "
        f"{cause} ({counted(times, 'time')}); the scene lacks them. {extremes(parameters)}. Lower the learning rates "
        "or the guidance scale, or set fp16: false, and start again with --overwrite"
    )


class FaultWatch:
    """Remembers the faulty and the empty steps in a row, and how often each fault was met since the start.

    `limit` faults in a row are one too many; a run with more than `max_points` Gaussians has exploded.
    """

    def __init__(self, limit: int, max_points: int) -> None:
        self.limit, self.max_points = limit, max_points
        self.met: Counter[str] = Counter()
        self.faults_in_a_row = self.empty_in_a_row = 0

    def is_lost(self, fault: str | None, broken_parameter: str | None) -> bool:
        """Counts one step; True when no later step can be expected to be better."""
        self.faults_in_a_row = self.faults_in_a_row + 1 if fault else 0
        if fault:
            self.met[cause_of(fault)] += 1
        return self.faults_in_a_row >= self.limit or broken_parameter is not None

    def restart(self) -> None:
        """After going back to a checkpoint: the faults in a row are forgotten, what was met is not."""
        self.faults_in_a_row = self.empty_in_a_row = 0

    def check_scene(self, points: int, transmittances: torch.Tensor) -> None:
        """Raises TrainingStopped for a scene that no step can mend: points after the step, views [B, 1, H, W] in it."""
        if points == 0:
            raise TrainingStopped(
                "every Gaussian was pruned, for all had become nearly transparent; lower opacity_lr, raise "
                "opacity_reset_interval, or begin with more init_num_pts"
            )
        if points > self.max_points:
            raise TrainingStopped(
                f"{points} Gaussians are more than OptimizationParams.max_points = {self.max_points}; raise "
                "densify_grad_threshold or densification_interval, or max_points if memory allows"
            )
        empty = float(transmittances.min()) > 1 - OPAQUE if transmittances.numel() else False
        self.empty_in_a_row = self.empty_in_a_row + 1 if empty else 0
        if self.empty_in_a_row >= self.limit:
            raise TrainingStopped(
                f"{counted(self.limit, 'step')} in a row showed empty images: everything is transparent or out of "
                "sight; lower opacity_lr, or check radius_range and default_radius against the size of the initial "
                "shape"
            )

    def diagnosis(self, fault: str | None, parameters: Mapping[str, torch.Tensor], rolled_back: bool) -> str:
        """Why a lost run ends: what was met how often, the state of the parameters, and what to try."""
        often = ", ".join(f"{name} {counted(count, 'time')}" for name, count in self.met.most_common(3))
        was = "was" if self.faults_in_a_row == 1 else "were"
        before = "going back to a checkpoint did not help" if rolled_back else "there is no checkpoint to go back to"
        return (
            f"{counted(self.faults_in_a_row, 'step')} in a row {was} not finite, the last one because {fault}, and "
            f"{before}. Met so far: {often}. {extremes(parameters)}. Lower the learning rates or the guidance "
            "scale, or set fp16: false"
        )


def extremes(parameters: Mapping[str, torch.Tensor]) -> str:
    """What of the parameters cannot be rendered, in words: NaN, infinity, too large, or activated to such.

    `scaling` is a logarithm whose exponential is squared in the covariance; `rotation` is divided by its length.
    """
    problems = []
    for name, x in parameters.items():
        if not x.numel():
            continue
        x = x.detach()
        largest = float(x.abs().max())
        if bad := _rows(~x.isfinite()):
            problems.append(f"{name} of {bad} of {counted(len(x), 'Gaussian')} is not finite")
        elif name == "scaling" and (bad := _rows(~torch.exp(2 * x).isfinite())):
            problems.append(
                f"scaling reaches {float(x.max()):.3g}: it is a logarithm, and the squared size exp(2 * scaling) of "
                f"{bad} of {counted(len(x), 'Gaussian')} overflows"
            )
        elif name == "rotation" and (bad := _rows((x * x).sum(dim=1, keepdim=True) == 0)):
            problems.append(f"rotation of {bad} of {counted(len(x), 'Gaussian')} has length 0")
        elif largest > LARGE:
            problems.append(f"{name} reaches {largest:.3g}")
    return "; ".join(problems) or "Parameters and their activations are finite"


def _rows(bad: torch.Tensor) -> int:
    """The Gaussians of which something is bad: rows of a boolean tensor [N, ...]."""
    return int(bad.reshape(len(bad), -1).any(dim=1).sum())
