# SPDX-License-Identifier: Apache-2.0
"""What an ablation's folder says of its runs: summary.md, runs.csv, film.csv, and sheets of the scenes to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.ablation import clouds
from evaluation.ablation.film import figure, film_csv
from evaluation.ablation.summary import blocks, runs_csv, summary
from evaluation.experiments.runs import Result
from evaluation.known_truth import renderer_of_gaussians
from toy.raycast import View
from utils.general_utils import write_text_atomically
from utils.heat_map import text_lines
from utils.image_utils import write_png

ELEVATION_DEG = 10.0
LABEL_PX, SIDE_PX = 190, 96
SHEET_SEEDS = 2


def write_report(out: Path, results: Sequence[Result]) -> str:
    """Writes all files, a sheet for each block of the summary; returns the text of summary.md."""
    text = summary(results)
    if not out.is_dir() or not results:
        return text
    write_text_atomically(out / "summary.md", text + "\n")
    write_text_atomically(out / "runs.csv", runs_csv(results))
    if any("film" in result for result in results):
        write_text_atomically(out / "film.csv", film_csv(results))
    for block in blocks(results):
        shown = first_seeds(block.results, SHEET_SEEDS)
        write_png(out / f"sheet_{block.name}.png", sheet(out, shown, SIDE_PX))
        strips = figure(shown)
        if strips is not None:
            write_png(out / f"film_{block.name}.png", strips)
    return text


def first_seeds(results: Sequence[Result], count: int) -> list[Result]:
    """Unpicked runs: those of the `count` smallest seeds, object by object."""
    seeds = sorted({result["seed"] for result in results})[:count]
    chosen = [result for result in results if result["seed"] in seeds]
    return sorted(chosen, key=lambda r: (r["prior"], r["front_bias"], r["prompt"], r["seed"]))  # stable by variant


def sheet(out: Path, results: Sequence[Result], side_px: int, columns: int = 8) -> np.ndarray:
    """RGB uint8 [runs side_px, LABEL_PX + columns side_px, 3] of the runs with a cloud in `out` (ValueError: none)."""
    rows = []
    for result in results:
        kept = clouds.snapshots(clouds.folder_of(out, result["name"]))
        if kept:
            rows.append(np.hstack([_label(result, side_px), views_of_cloud(kept[-1], side_px, columns)]))
    if not rows:
        raise ValueError(f"{out} holds no cloud of these runs; run them first")
    return np.vstack(rows)


def views_of_cloud(path: Path, side_px: int, columns: int) -> np.ndarray:
    """RGB uint8 [side_px, columns side_px, 3]: a kept cloud from evenly spaced sides, the first at azimuth 0."""
    shot = clouds.load(path)
    azimuths = [360.0 * k / columns for k in range(columns)]
    views = [View(90 - ELEVATION_DEG, azimuth, shot.radius, shot.fov_rad) for azimuth in azimuths]
    images = renderer_of_gaussians(shot.cloud)(views, side_px)[0]
    return np.hstack(list(np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1)))


def _label(result: Result, side_px: int) -> np.ndarray:
    scores = result["scores"]
    lines = [f"{result['variant']}, seed {result['seed']}", f"{result['prior']}, {result['words']} words"]
    if result["front_bias"]:
        lines[-1] += f" ({result['front_bias']:g})"
    lines.append(f"{scores['psnr']:.1f} dB, yaw {scores['yaw_deg']:.0f}")
    if scores["clean"] is not None:
        lines.append(f"{'clean' if scores['clean'] else 'NOT CLEAN'}, share {scores['front_share']:.2f}")
    return text_lines(lines, LABEL_PX, side_px)
