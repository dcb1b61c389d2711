# SPDX-License-Identifier: Apache-2.0
"""What is kept of each asset: its facts, images for the report, and the scores of the metrics."""

import math
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from evaluation import METRICS, MetricUnavailable
from evaluation.automatic_janus import flag_by_order
from evaluation.experiments.facts import denoiser_calls, mechanism, samples
from evaluation.experiments.grid import TOY_PRIORS
from evaluation.experiments.runs import Log, Result, Run, Sweep, read_results, write_result
from evaluation.known_truth import score_run
from evaluation.run_folder import config_of_run, gaussians_of_run, score_runs
from evaluation.run_images import draw
from utils.device import resolve_device


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
        "samples": samples(log),
        "skipped_steps": sum(step["fault"] is not None for step in log),
        "mechanism": mechanism(log),
        "known_truth": score_run(folder) if prior in TOY_PRIORS else None,
        "janus_order": _janus_order(folder),
        "metrics": {},
    }


def _janus_order(folder: Path) -> float | None:
    """The automatic Janus measure without weights; None for a scene that shows nothing."""
    config = config_of_run(folder)
    value = flag_by_order(gaussians_of_run(folder, config, resolve_device(config.device)), config).value
    return None if math.isnan(value) else value


def _peak_gb() -> float:
    """Of the GPU's memory where one was used, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def add_metrics(
    sweep: Sweep,
    runs: Sequence[Run],
    names: Sequence[str],
    device: torch.device,
    weights: Path | None,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Scores every finished asset that has no score yet, a metric at a time; metric -> why it is missing."""
    missing = {}
    for name in names:
        left = [r for r in read_results(sweep.out, [run.name for run in runs]) if name not in r["metrics"]]
        if not left:
            continue
        report(f"{METRICS[name].title}: {len(left)} assets")
        folders = [sweep.folder(result["name"]) for result in left]
        try:
            for result, scores in zip(left, score_runs(name, folders, device, weights)):
                result["metrics"][name] = scores
                write_result(sweep.path(result["name"]), result)
        except MetricUnavailable as reason:
            missing[name] = str(reason)
            report(f"{METRICS[name].title} is missing: {reason}")
    return missing
