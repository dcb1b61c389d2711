# SPDX-License-Identifier: Apache-2.0
"""The ROC of the measure without weights, and how its numbers spread, as one image."""

from collections.abc import Sequence

import cv2
import numpy as np

from tests.evaluation.janus_roc.page import SOURCES, counted, faults
from tests.evaluation.janus_roc.roc import area, curve
from tests.evaluation.janus_roc.scenes import Scene

SIDE_PX, MARGIN_PX = 420, 60
COLOURS = {"built": (60, 100, 200), "fitted": (40, 150, 80), "clouds": (200, 60, 40)}
BINS = 40


def figure(scenes: Sequence[Scene], threshold: float) -> np.ndarray:
    """uint8 [H, W, 3] RGB: the ROC on the left; on the right the scenes of each source by their order."""
    return np.hstack([_roc(scenes), _spread(scenes, threshold)])


def _roc(scenes: Sequence[Scene]) -> np.ndarray:
    page = _page("1 - specificity", "sensitivity against 1 - specificity", ("0", "0.5", "1"))
    cv2.line(page, _at(0, 0), _at(1, 1), (180, 180, 180), 1, cv2.LINE_AA)
    for row, source in enumerate(source for source in SOURCES if any(s.source == source for s in scenes)):
        known = [scene for scene in counted(scenes) if scene.source == source]
        score, fault = -np.array([scene.order for scene in known]), faults(known)
        points = [_at(x, y) for x, y in zip(*curve(score, fault))]
        cv2.polylines(page, [np.array(points, np.int32)], False, COLOURS[source], 2, cv2.LINE_AA)
        label = f"{SOURCES[source]}: {len(known)}, area {area(score, fault):.3f}"
        _text(page, label, (MARGIN_PX + 110, MARGIN_PX + SIDE_PX - 60 + 20 * row), COLOURS[source])
    return page


def _spread(scenes: Sequence[Scene], threshold: float) -> np.ndarray:
    page = _page("order", "scenes by order; above: one front, below: several", ("-1", "0", "1"))
    found = [source for source in SOURCES if any(scene.source == source for scene in scenes)]
    height = SIDE_PX // len(found)
    for row, source in enumerate(found):
        middle = MARGIN_PX + row * height + height // 2
        for janus, sign in ((False, -1), (True, 1)):
            orders = [scene.order for scene in scenes if scene.source == source and scene.janus is janus]
            counts = np.histogram(orders, BINS, (-1, 1))[0] / max(len(orders), 1)
            for k, tall in enumerate(np.rint(counts / max(counts.max(), 1e-9) * (height // 2 - 6)).astype(int)):
                left = MARGIN_PX + k * SIDE_PX // BINS
                corner = (left + SIDE_PX // BINS - 2, middle + sign * int(tall))
                if tall:
                    cv2.rectangle(page, (left, middle), corner, COLOURS[source], -1)
        _text(page, SOURCES[source], (MARGIN_PX + 6, middle - height // 2 + 18), COLOURS[source])
    x = _at((threshold + 1) / 2, 0)[0]
    cv2.line(page, (x, MARGIN_PX), (x, MARGIN_PX + SIDE_PX), (0, 0, 0), 1)
    return page


def _page(label: str, title: str, ticks: Sequence[str]) -> np.ndarray:
    side = SIDE_PX + 2 * MARGIN_PX
    page = np.full((side, side, 3), 255, np.uint8)
    cv2.rectangle(page, _at(0, 0), _at(1, 1), (120, 120, 120), 1)
    _text(page, title, (MARGIN_PX, MARGIN_PX - 14), (0, 0, 0))
    _text(page, label, (MARGIN_PX + SIDE_PX // 2 - 40, side - 14), (0, 0, 0))
    for k, tick in enumerate(ticks):
        _text(page, tick, (MARGIN_PX + k * SIDE_PX // (len(ticks) - 1) - 6, side - 38), (0, 0, 0))
    return page


def _at(x: float, y: float) -> tuple[int, int]:
    """Pixel of a point of the unit square."""
    return MARGIN_PX + round(x * SIDE_PX), MARGIN_PX + round((1 - y) * SIDE_PX)


def _text(page: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
