# SPDX-License-Identifier: Apache-2.0
"""Toy scenes whose fronts are known, with what the automatic Janus measures see of them.

Built scenes are those of tests/toy/calibration, known by construction; the clouds of an ablation's folder
(tools/ablate_toy.py) are known by the toy world's yardstick. A = 24 azimuths.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluation.ablation import clouds
from evaluation.experiments.runs import Result, read_folder
from evaluation.known_truth import renderer_of_gaussians
from evaluation.view_order import SIDE_PX, VIEWS, order
from tests.toy.calibration.scenes import FOV_RAD, KINDS, RADIUS, at_yaw, degraded, fitted
from toy.captions import DEFAULT_COLOURS, Spec
from toy.fronts import CLEAN_SHARE, FRONT_DEG, STEP_DEG, scan_views
from toy.truth import Renderer, renderer_of_truth

STEP = 360 // VIEWS
COLOURS = (None, ("pink", "blue"), ("green", "white"))
"""Of a right scene: the object's own, and two other pairs, so that there are as many right as wrong scenes."""
DEGRADATIONS = {
    "blur 0": (0.0, 1.0, 0.0),
    "blur 0.02": (0.02, 1.0, 0.0),
    "blur 0.04": (0.04, 1.0, 0.0),
    "blur 0.01, contrast 1.3, noise 0.05": (0.01, 1.3, 0.05),
}
FITTED = ("right", "two fronts, 180 apart", "two fronts, 90 apart", "three fronts", "front all round")
NO_FRONT = ("back all round", "two backs", "side all round")


@dataclass(frozen=True)
class Scene:
    """One scene. `janus`: more than one front (None: no clear front); `seen_deg` [A]: the true azimuth it resembles."""

    source: str
    object: str
    kind: str
    janus: bool | None
    order: float
    seen_deg: tuple[float, ...]


def built_scenes(class_name: str, fit: bool) -> Iterator[Scene]:
    """Every built scene of one object; `fit`: the fitted clouds, else the images themselves."""
    for scene, _, render in rendered_scenes(class_name, fit):
        yield replace(scene, order=order_of(render, RADIUS, FOV_RAD))


def rendered_scenes(class_name: str, fit: bool) -> Iterator[tuple[Scene, Spec, Renderer]]:
    """As built_scenes, not measured yet: each with its object and what it looks like."""
    rng = np.random.default_rng(zlib.crc32(class_name.encode()))
    for name, kind in KINDS.items():
        if (kind.right is None) or (fit and name not in FITTED):
            continue
        for colours in COLOURS if kind.right and not fit else COLOURS[:1]:
            spec = Spec(class_name, *(colours or DEFAULT_COLOURS[class_name]))
            base = kind.of(renderer_of_truth(spec))
            shown = {"fitted": renderer_of_gaussians(fitted(base, seed=0))} if fit else _degraded(base)
            for degradation, render in shown.items():
                yaw_deg = int(rng.integers(360 // STEP_DEG)) * STEP_DEG
                seen = tuple((kind.shown(azimuth - yaw_deg) + 180) % 360 - 180 for azimuth in range(0, 360, STEP))
                janus = None if name in NO_FRONT else not kind.right
                source = "fitted" if fit else "built"
                label = f"{name}; {degradation}"
                yield Scene(source, class_name, label, janus, float("nan"), seen), spec, at_yaw(render, yaw_deg)


def _degraded(base: Renderer) -> dict[str, Renderer]:
    return {name: degraded(base, *how) for name, how in DEGRADATIONS.items()}


def order_of(render: Renderer, radius: float, fov_rad: float) -> float:
    """The measure without weights of what `render` shows, to the digits of scenes.csv."""
    return round(order(*views_of(render, radius, fov_rad, SIDE_PX)), 4)


def views_of(render: Renderer, radius: float, fov_rad: float, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [A, H, W, 3], and coverages [A, H, W] of one turn."""
    images, coverage = render(scan_views(STEP, radius, fov_rad), size_px)
    return np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1), coverage


def kept_scenes(folder: Path) -> Iterator[Scene]:
    """The last cloud of each run of an ablation whose object has a front. Raises ValueError for a folder without any."""
    results = [result for result in read_folder(folder) if result["scores"]["clean"] is not None]
    kept = [(result, clouds.snapshots(clouds.folder_of(folder, result["name"]))) for result in results]
    if not any(paths for _, paths in kept):
        raise ValueError(f"{folder} holds no clouds of scored runs; give a folder that tools/ablate_toy.py --out wrote")
    for result, paths in kept:
        if paths:
            shot = clouds.load(paths[-1])
            score = order_of(renderer_of_gaussians(shot.cloud), shot.radius, shot.fov_rad)
            seen = tuple(float(azimuth) for azimuth in result["scores"]["assigned_deg"][:: STEP // STEP_DEG])
            yield Scene("clouds", result["prompt"], _kind(result), is_janus(result), score, seen)


def is_janus(result: Result) -> bool | None:
    """More than one front by count, or a front that is too wide; None for a scene without a clear front."""
    scores = result["scores"]
    if scores["fronts"] >= 2 or scores["front_share"] > CLEAN_SHARE[1]:
        return True
    return False if scores["clean"] else None


def _kind(result: Result) -> str:
    return f"{result['scores']['fronts']} fronts, share {result['scores']['front_share']:.2f}; {result['name']}"


def words_seen(scene: Scene) -> np.ndarray:
    """Which of front, side, back (0, 1, 2) each azimuth truly shows, [A]."""
    away = np.abs(np.asarray(scene.seen_deg))
    return np.where(away <= FRONT_DEG, 0, np.where(away >= 180 - FRONT_DEG, 2, 1))

