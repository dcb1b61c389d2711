# SPDX-License-Identifier: Apache-2.0
"""How well a number tells scenes with a fault from those without: ROC, its area, a threshold, and what it gets right.

A scene is flagged where its score is above the threshold. N scenes; `fault` [N] says which have the fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.janus import share


@dataclass(frozen=True)
class Accuracy:
    """Flagged ones of those with the fault, and not flagged ones of those without."""

    flagged: int
    faulty: int
    passed: int
    right: int

    @property
    def sensitivity(self) -> float:
        return self.flagged / self.faulty

    @property
    def specificity(self) -> float:
        return self.passed / self.right

    def __str__(self) -> str:
        """Both shares with Wilson's 95 % intervals."""
        shares = (("sensitivity", self.flagged, self.faulty), ("specificity", self.passed, self.right))
        return ", ".join(f"{name} {share(hits, trials)}" for name, hits, trials in shares)


def accuracy(flagged: Sequence[bool] | np.ndarray, fault: Sequence[bool] | np.ndarray) -> Accuracy:
    """Of what was flagged [N]."""
    hit, true = np.asarray(flagged, bool), np.asarray(fault, bool)
    return Accuracy(int((hit & true).sum()), int(true.sum()), int((~hit & ~true).sum()), int((~true).sum()))


def curve(score: np.ndarray, fault: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC: 1 - specificity and sensitivity at every threshold, from the highest to the lowest; both from 0 to 1."""
    thresholds = np.concatenate([[np.inf], np.unique(score)[::-1], [-np.inf]])
    above = score[None] > thresholds[:, None]
    return (above & ~fault).sum(axis=1) / (~fault).sum(), (above & fault).sum(axis=1) / fault.sum()


def area(score: np.ndarray, fault: np.ndarray) -> float:
    """Area under the ROC: how often a faulty scene scores above a right one; equal scores count half."""
    difference = score[fault][:, None] - score[~fault][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def best_threshold(score: np.ndarray, fault: np.ndarray) -> float:
    """The largest sum of sensitivity and specificity (Youden 1950); half-way between the scores that it separates."""
    values = np.unique(score)
    between = (values[1:] + values[:-1]) / 2
    gain = [(score[fault] > t).mean() - (score[~fault] > t).mean() for t in between]
    best = np.flatnonzero(np.isclose(gain, max(gain)))
    return float(between[best[len(best) // 2]])


def held_out_flags(score: np.ndarray, fault: np.ndarray, group: np.ndarray) -> np.ndarray:
    """What is flagged [N] when each group's threshold is chosen on all other groups."""
    flagged = np.zeros(len(score), bool)
    for name in np.unique(group):
        own = group == name
        flagged[own] = score[own] > best_threshold(score[~own], fault[~own])
    return flagged
