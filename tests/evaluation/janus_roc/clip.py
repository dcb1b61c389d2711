# SPDX-License-Identifier: Apache-2.0
"""The view words with a real CLIP on built toy scenes: for those who have its weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation import load_metric
from evaluation.view_words import second_front, view_probabilities
from tests.evaluation.janus_roc.roc import Accuracy, accuracy
from tests.evaluation.janus_roc.scenes import rendered_scenes, views_of, words_seen
from tests.toy.calibration.scenes import FOV_RAD, RADIUS
from toy.captions import caption

SIDE_PX = 224


def classified(objects: Sequence[str], weights: Path) -> list[tuple[str, Accuracy]]:
    """One row: the rule on every built scene. Raises MetricUnavailable."""
    clip = load_metric("clip_b32", "cpu", weights)
    flagged, fault, right = [], [], []
    for class_name in objects:
        for scene, spec, render in rendered_scenes(class_name, fit=False):
            if scene.janus is None:
                continue
            prompt = caption(spec.class_name, spec.colour_a, spec.colour_b)
            probability = view_probabilities(clip, views_of(render, RADIUS, FOV_RAD, SIDE_PX)[0], prompt)
            flagged.append(second_front(probability) > 0)
            fault.append(bool(scene.janus))
            right.append((probability.argmax(axis=1) == words_seen(scene)).mean())
    return [(f"built scenes, CLIP B/32; {np.mean(right):.0%}", accuracy(flagged, fault))]
