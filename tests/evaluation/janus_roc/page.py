# SPDX-License-Identifier: Apache-2.0
"""What the scenes say of the measures: the calibration that the tools print, and the tables of the page. A = 24 azimuths."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.janus import share
from evaluation.view_words import second_front
from tests.evaluation.janus_roc.roc import Accuracy, accuracy, area, best_threshold, held_out_flags
from tests.evaluation.janus_roc.scenes import NO_FRONT, Scene, words_seen
from utils.wording import markdown

SOURCES = {"built": "built scenes", "fitted": "clouds fitted to built scenes", "clouds": "clouds of toy runs"}
NOISES = (0.0, 0.3, 0.4, 0.5, 0.7)
"""Std of a simulated classifier's numbers, of which the true word's is 1 above the others'; SHARP times these, its logits."""
SHARP = 6.0
REPEATS = 20


def calibration(scenes: Sequence[Scene]) -> dict[str, Any]:
    """The threshold of `order`, and by source what it gets right on objects that it was not chosen on."""
    known = counted(scenes)
    score, fault, objects = -np.array([s.order for s in known]), faults(known), np.array([s.object for s in known])
    flagged = held_out_flags(score, fault, objects)
    found: dict[str, Any] = {"threshold": round(-best_threshold(score, fault), 4), "scenes": {}}
    for source in SOURCES:
        own = np.array([scene.source == source for scene in known])
        if own.any():
            right = accuracy(flagged[own], fault[own])
            found["scenes"][source] = {
                "sensitivity": [right.flagged, right.faulty],
                "specificity": [right.passed, right.right],
                "area": round(area(score[own], fault[own]), 3),
                "objects": len(set(objects[own])),
            }
    return found


def counted(scenes: Sequence[Scene]) -> list[Scene]:
    """Scenes that have the fault or have not."""
    return [scene for scene in scenes if scene.janus is not None]


def faults(scenes: Sequence[Scene]) -> np.ndarray:
    return np.array([bool(scene.janus) for scene in scenes])


def page(scenes: Sequence[Scene], words: Sequence[tuple[str, Accuracy]]) -> str:
    """All tables as Markdown. `words`: rows of the table of classifiers."""
    found = calibration(scenes)
    lines = [f"Flagged: order below {found['threshold']:.2f}.", "", _headline(found), ""]
    lines += ["Flagged, by what the scene is (at that threshold):", "", _by_kind(scenes, found["threshold"]), ""]
    lines += ["By object:", "", _by_object(scenes, found["threshold"]), ""]
    lines += ["The rule of the view words, by how often its classifier is right about a view:", ""]
    rows = [[name, *(share(*pair) for pair in _pairs(right))] for name, right in words]
    return "\n".join([*lines, markdown(["scenes; views classified rightly", "sensitivity", "specificity"], rows)])


def _pairs(right: Accuracy) -> tuple[tuple[int, int], tuple[int, int]]:
    return (right.flagged, right.faulty), (right.passed, right.right)


def _headline(found: dict[str, Any]) -> str:
    rows = []
    for source, own in found["scenes"].items():
        shares = (share(*own[name]) for name in ("sensitivity", "specificity"))
        rows.append([SOURCES[source], str(own["objects"]), *shares, f"{own['area']:.3f}"])
    return markdown(["scenes", "objects", "sensitivity", "specificity", "area under the ROC"], rows)


def _by_kind(scenes: Sequence[Scene], threshold: float) -> str:
    built = [scene for scene in scenes if scene.source != "clouds"]
    kinds = list(dict.fromkeys(scene.kind.split("; ")[0] for scene in built))
    looks = list(dict.fromkeys(scene.kind.split("; ")[1] for scene in built))
    rows = []
    for kind in sorted(kinds, key=lambda name: name in NO_FRONT):
        own = [[s for s in built if s.kind == f"{kind}; {look}"] for look in looks]
        rows.append([kind, *(_flagged(some, threshold) for some in own)])
    labels = {True: "several fronts", False: "one front", None: "no clear front"}
    runs = [scene for scene in scenes if scene.source == "clouds"]
    extra = [f"Clouds of toy runs, {name}: {_flagged(some, threshold)} flagged." for janus, name in labels.items()
             if (some := [s for s in runs if s.janus is janus])]  # fmt: skip
    return "\n".join([markdown(["scene", *looks], rows), "", *extra])


def _flagged(scenes: Sequence[Scene], threshold: float) -> str:
    if not scenes:
        return "-"
    orders = [scene.order for scene in scenes]
    return f"{sum(order < threshold for order in orders)}/{len(orders)} ({min(orders):.2f}..{max(orders):.2f})"


def _by_object(scenes: Sequence[Scene], threshold: float) -> str:
    rows = []
    for source in SOURCES:
        own = [scene for scene in counted(scenes) if scene.source == source]
        for name in dict.fromkeys(scene.object for scene in own):
            some = [scene for scene in own if scene.object == name]
            right = accuracy([scene.order < threshold for scene in some], faults(some))
            rows.append([SOURCES[source], name, *(share(*pair) for pair in _pairs(right))])
    return markdown(["scenes", "object", "sensitivity", "specificity"], rows)


def simulated(scenes: Sequence[Scene]) -> list[tuple[str, Accuracy]]:
    """The rule of the view words with classifiers that err, each scene REPEATS times."""
    rng, rows = np.random.default_rng(0), []
    for source in SOURCES:
        known = [scene for scene in counted(scenes) if scene.source == source]
        for noise in NOISES if known else ():
            flagged, right = [], []
            for scene in known:
                true = words_seen(scene)
                for _ in range(REPEATS if noise else 1):
                    found = np.exp(SHARP * (np.eye(3)[true] + noise * _smooth(rng, len(true))))
                    flagged.append(second_front(found / found.sum(axis=1, keepdims=True)) > 0)
                    right.append((found.argmax(axis=1) == true).mean())
            fault = np.repeat(faults(known), REPEATS if noise else 1)
            rows.append((f"{SOURCES[source]}; {np.mean(right):.0%}", accuracy(flagged, fault)))
    return rows


def _smooth(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise of std 1 [count, 3], alike in neighbouring views as a network's errors are: weights 1/4, 1/2, 1/4."""
    white = rng.standard_normal((count, 3))
    return (np.roll(white, 1, 0) + 2 * white + np.roll(white, -1, 0)) / np.sqrt(6)
