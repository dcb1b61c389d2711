# SPDX-License-Identifier: Apache-2.0
"""CLIP R-Precision (Park et al. 2021; Jain et al. 2022): does CLIP pick a scene's own prompt out of a set of prompts?

Chance level is 1 / P, so a number means something only beside the size of its set. V views, P prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Retrieval:
    """Of one scene: in how many of its views, and whether in their mean, its own prompt is the most similar."""

    views: int
    hits: int
    asset: bool


def retrieval(similarity: np.ndarray, own: int) -> Retrieval:
    """From similarities [V, P], of which column `own` is the scene's prompt; a tie with another prompt is a miss."""
    hits, asset = _first(similarity, own), _first(similarity.mean(axis=0, keepdims=True), own)
    return Retrieval(len(similarity), int(hits.sum()), bool(asset[0]))


def _first(similarity: np.ndarray, own: int) -> np.ndarray:
    return similarity[:, own] > np.delete(similarity, own, axis=1).max(axis=1)


def prompt_set(prompts: Sequence[str], own: Sequence[str]) -> list[str]:
    """The prompts and, after them, those of the scenes that they lack. Raises ValueError for fewer than two."""
    found = list(dict.fromkeys([*prompts, *own]))
    if len(found) < 2:
        raise ValueError(f"the set holds only {found[0]!r}; expected two prompts or more to choose from")
    return found
