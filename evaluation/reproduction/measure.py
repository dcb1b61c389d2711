# SPDX-License-Identifier: Apache-2.0
"""What is kept of each asset: its facts, pictures for the report, and the scores of the metrics."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation import METRICS, MetricUnavailable, load_metric
from evaluation.known_truth import score_run
from evaluation.pages import jpeg
from evaluation.reproduction.plan import Asset
from evaluation.run_folder import config_of_run, gaussians_of_run, orbit
from evaluation.sweep.facts import denoiser_calls, mechanism
from evaluation.sweep.runs import Log, Result, Sweep, read_results, write_result
from tools.evaluate import score_scene
from utils.device import resolve_device
from utils.video import VideoWriter

FRAMES, FPS, STRIP = 48, 12, 8
PICTURES = "report"  # of a run folder
TURNTABLE, VIEWS = "turntable.mp4", "views.jpg"


def measure(folder: Path, log: Log, prior: str, view_px: int) -> Result:
    """Of a run that has just ended; what needs weights of a metric comes later, for all runs at once."""
    draw(folder, view_px)
    phases = {name: float(np.mean([step["phase_ms"].get(name, 0.0) for step in log])) for name in log[-1]["phase_ms"]}
    return {
        "steps": len(log),
        "points": log[-1]["points"],
        "phase_ms": {name: round(value, 3) for name, value in phases.items()},
        "peak_gb": round(_peak_gb(), 3),
        "denoiser_calls": denoiser_calls(log),
        "skipped_steps": sum(step["fault"] is not None for step in log),
        "mechanism": mechanism(log),
        "known_truth": score_run(folder) if prior == "toy" else None,
        "metrics": {},
    }


def draw(folder: Path, view_px: int) -> None:
    """report/turntable.mp4, and report/views.jpg: eight sides in a row, the front first."""
    config = config_of_run(folder)
    pictures = orbit(gaussians_of_run(folder, config, resolve_device(config.device)), config, FRAMES, view_px)
    (folder / PICTURES).mkdir(exist_ok=True)
    (folder / PICTURES / VIEWS).write_bytes(jpeg(np.hstack(list(pictures[:: FRAMES // STRIP]))))
    with VideoWriter(folder / PICTURES / TURNTABLE, FPS) as video:
        for picture in pictures:
            video.add(picture)


def _peak_gb() -> float:
    """Of the GPU's memory where one was used, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def add_metrics(
    sweep: Sweep,
    assets: Sequence[Asset],
    names: Sequence[str],
    device: torch.device,
    weights: Path | None,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Scores every finished asset that has no score yet, a metric at a time; metric -> why it is missing."""
    missing = {}
    for name in names:
        left = [asset for asset in assets if _lacks(sweep, asset, name)]
        if not left:
            continue
        tell(f"{METRICS[name].title}: {len(left)} assets")
        try:
            metric = load_metric(name, device, weights)
        except MetricUnavailable as reason:
            missing[name] = str(reason)
            tell(f"{METRICS[name].title} is missing: {reason}")
            continue
        for asset in left:
            result = read_results(sweep.out, [asset.name])[0]
            result["metrics"][name] = score_scene(sweep.folder(asset.name), name, metric, device)
            write_result(sweep.path(asset.name), result)
        del metric
    return missing


def _lacks(sweep: Sweep, asset: Asset, name: str) -> bool:
    found = read_results(sweep.out, [asset.name])
    return bool(found) and name not in found[0]["metrics"]
