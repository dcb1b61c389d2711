# SPDX-License-Identifier: Apache-2.0
"""The scenes of an ablation, a row each, from all sides: what the scores are about, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from evaluation.ablation import clouds
from evaluation.ablation.grid import Run
from evaluation.known_truth import renderer_of_gaussians
from evaluation.sweep.runs import Result, read_results
from toy.raycast import View

ELEVATION_DEG = 10.0
LABEL_PX = 190


def first_seeds(results: Sequence[Result], count: int) -> list[Result]:
    """Unpicked runs: those of the `count` smallest seeds, object by object."""
    seeds = sorted({result["seed"] for result in results})[:count]
    chosen = [result for result in results if result["seed"] in seeds]
    return sorted(chosen, key=lambda r: (r["prior"], r["words"], r["prompt"], r["seed"]))  # variants keep their order


def sheet(out: Path, results: Sequence[Result], side_px: int, columns: int = 8) -> np.ndarray:
    """RGB uint8 [runs side_px, LABEL_PX + columns side_px, 3] of the runs with a cloud in `out` (ValueError: none)."""
    rows = []
    for result in results:
        kept = clouds.snapshots(clouds.folder_of(out, name_of(result)))
        if kept:
            rows.append(np.hstack([_label(result, side_px), _views(kept[-1], side_px, columns)]))
    if not rows:
        raise ValueError(f"{out} holds no cloud of these runs; run them first")
    return np.vstack(rows)


def results_in(out: Path) -> list[Result]:
    """Every finished run of a folder, by seed and name."""
    paths = sorted(out.glob("*-seed*.json"), key=lambda path: (int(path.stem.rpartition("seed")[2]), path.stem))
    return read_results(out, [path.stem for path in paths])


def name_of(result: Result) -> str:
    """The name of a result's run."""
    return Run(*(result[field] for field in ("prior", "front_bias", "prompt", "variant", "seed"))).name


def _views(path: Path, side_px: int, columns: int) -> np.ndarray:
    shot = clouds.load(path)
    azimuths = [360.0 * k / columns for k in range(columns)]
    views = [View(90 - ELEVATION_DEG, azimuth, shot.radius, shot.fov_rad) for azimuth in azimuths]
    images = renderer_of_gaussians(shot.cloud)(views, side_px)[0]
    return np.hstack(list(np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1)))


def _label(result: Result, side_px: int) -> np.ndarray:
    page = np.full((side_px, LABEL_PX, 3), 255, np.uint8)
    scores = result["scores"]
    lines = [f"{result['variant']}, seed {result['seed']}", f"{result['prior']}, {result['words']} words"]
    lines.append(f"{scores['psnr']:.1f} dB, yaw {scores['yaw_deg']:.0f}")
    if scores["clean"] is not None:
        lines.append(f"{'clean' if scores['clean'] else 'NOT CLEAN'}, share {scores['front_share']:.2f}")
    for line, text in enumerate(lines):
        at = (4, side_px // 2 - 24 + 18 * line)
        cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return page
