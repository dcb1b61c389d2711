# SPDX-License-Identifier: Apache-2.0
"""How the assignment of azimuths to true views changes over a run: when does an outcome tip?

A run that keeps several snapshots (--film) has in its JSON the true azimuth that each of its azimuths resembles, at
each snapshot. S snapshots, A azimuths of the object.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from evaluation.experiments.runs import Result
from evaluation.experiments.tables import by_variant, csv_text
from toy.fronts import Fronts, fronts_of
from utils.heat_map import text_lines
from utils.wording import markdown

COLOURS = np.array([[200, 30, 30], [235, 160, 60], [170, 170, 170], [60, 100, 200]], np.uint8)
"""Of true views within 22.5, 45, 135 and 180 degrees of the front: RGB."""
BOUNDS_DEG = (22.5, 45.0, 135.0)
LABEL_PX, STRIP_PX, ROW_PX = 330, 420, 60


def verdicts(result: Result) -> list[Fronts]:
    """What each snapshot of a run looks like, [S]."""
    return [fronts_of(np.asarray(assigned)) for assigned in result["film"]["assigned_deg"]]


def decided_at(result: Result) -> int:
    """Index of the first snapshot from which on the run is as clean, or not, as at its end."""
    clean = [found.clean for found in verdicts(result)]
    changes = [k + 1 for k in range(len(clean) - 1) if clean[k] != clean[-1]]
    return changes[-1] if changes else 0


def table(results: Sequence[Result]) -> list[str]:
    """Markdown lines: when the outcome was decided, by variant and outcome. None without films."""
    films = [result for result in results if "film" in result and result["scores"]["clean"] is not None]
    if not films:
        return []
    rows = []
    for variant, own in by_variant(films).items():
        for clean in (True, False):
            some = [result for result in own if verdicts(result)[-1].clean == clean]
            if some:
                rows.append([variant, "clean" if clean else "not clean", str(len(some)), *_quartiles(some)])
    header = ["variant", "outcome", "runs", "decided at step: quartiles", "mean t of the draws before it: quartiles"]
    title = "When a run was decided (the first snapshot from which on it is as it ends):"
    return [title, "", markdown(header, rows), ""]


def _quartiles(results: Sequence[Result]) -> list[str]:
    decided = [(result["film"], decided_at(result)) for result in results]
    steps = [film["iteration"][at] for film, at in decided]
    timesteps = [film["t_mean"][at] for film, at in decided]
    return [" / ".join(f"{q:.0f}" for q in np.quantile(values, (0.25, 0.5, 0.75))) for values in (steps, timesteps)]


def film_csv(results: Sequence[Result]) -> str:
    """A line a snapshot: its run, its fronts, and what was drawn since the one before."""
    cell = ("prompt", "variant", "seed", "front_bias")
    views = [f"views_{45 * k}" for k in range(8)]
    lines = [[*cell, "iteration", "front_share", "fronts", "clean", "t_mean", *views]]
    for result in [result for result in results if "film" in result]:
        film = result["film"]
        for k, found in enumerate(verdicts(result)):
            seen = [film["iteration"][k], f"{found.share:.3f}", found.count, int(found.clean)]
            drawn = [f"{film['t_mean'][k]:.0f}", *film["views_by_azimuth"][k]]
            lines.append([*(result[name] for name in cell), *seen, *drawn])
    return csv_text(lines)


def figure(results: Sequence[Result]) -> np.ndarray | None:
    """RGB uint8: a strip a run, time to the right, azimuth downwards; red: resembles the front, blue: the back."""
    strips = [_strip(result) for result in results if "film" in result]
    return np.vstack(strips) if strips else None


def _strip(result: Result) -> np.ndarray:
    assigned = np.abs(np.array(result["film"]["assigned_deg"])).T  # [A, S]
    colours = COLOURS[np.searchsorted(BOUNDS_DEG, assigned)]
    strip = cv2.resize(colours, (STRIP_PX, ROW_PX - 4), interpolation=cv2.INTER_NEAREST)
    outcome = "clean" if verdicts(result)[-1].clean else "not clean"
    texts = result["prompt"], f"{result['variant']}, seed {result['seed']}: {outcome}"
    label = text_lines(texts, LABEL_PX, ROW_PX - 4)
    return np.pad(np.hstack([label, strip]), ((0, 4), (0, 0), (0, 0)), constant_values=255)
