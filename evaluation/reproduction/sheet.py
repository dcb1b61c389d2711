# SPDX-License-Identifier: Apache-2.0
"""A sheet of a reproduction's first seed to look at beside its numbers: a row a variant, two sides of every prompt."""

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np

from evaluation.experiments.grid import TOY_PRIORS, VARIANTS
from evaluation.experiments.runs import Result, Sweep
from evaluation.reproduction.report import truth_strip
from evaluation.run_images import FOLDER, VIEWS
from utils.heat_map import text_lines
from utils.image_utils import read_png

SIDE_PX, LABEL_PX, LABEL_LETTERS = 96, 190, 28
SHOWN = (0, 3)  # of the report's eight sides: the front, and 135 degrees round


def sheet(sweep: Sweep, prior: str, results: Sequence[Result]) -> np.ndarray:
    """RGB uint8 [rows SIDE_PX, LABEL_PX + 2 prompts SIDE_PX, 3], of a toy world's prior with the truth above."""
    first = [result for result in results if result["seed"] == min(result["seed"] for result in results)]
    prompts = list(dict.fromkeys(result["prompt"] for result in first))
    rows = []
    if prior in TOY_PRIORS:
        of_prompt = {result["prompt"]: sweep.folder(result["name"]) for result in first}
        rows.append(_row("the truth", [truth_strip(prompt, of_prompt[prompt]) for prompt in prompts]))
    for variant in [name for name in VARIANTS if name in {result["variant"] for result in first}]:
        own = {result["prompt"]: result for result in first if result["variant"] == variant}
        strips = [_strip(sweep, own[prompt]) if prompt in own else None for prompt in prompts]
        rows.append(_row(VARIANTS[variant].title_on(prior), strips))
    return np.vstack(rows)


def _strip(sweep: Sweep, result: Result) -> np.ndarray:
    return read_png(sweep.folder(result["name"]) / FOLDER / VIEWS)


def _row(title: str, strips: Sequence[np.ndarray | None]) -> np.ndarray:
    """A label, then two sides of each strip [side, 8 side, 3]; white where there is none."""
    lines = textwrap.wrap(title, LABEL_LETTERS, break_long_words=False, break_on_hyphens=False) or [""]
    cells = [text_lines(lines, LABEL_PX, SIDE_PX)]
    for strip in strips:
        for side in SHOWN:
            if strip is None:
                cells.append(np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8))
                continue
            size = len(strip)
            view = strip[:, side * size : (side + 1) * size]
            cells.append(cv2.resize(view, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
    return np.hstack(cells)
