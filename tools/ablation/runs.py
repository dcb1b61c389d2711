# SPDX-License-Identifier: Apache-2.0
"""Runs an ablation's grid, and scores each run against the known truth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluation.known_truth import score_run
from tools.ablation.grid import Run
from tools.sweep.facts import denoiser_calls, mechanism
from tools.sweep.runs import Job, Log, Result, RunFailed, Sweep, read_results, run_all, waiting, write_result


def run_grid(
    runs: Sequence[Run],
    out: Path,
    front_bias: float,
    extra: Sequence[str],
    jobs: int,
    score_px: int,
    keep_all: bool,
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Does every run whose JSON is not there yet, `jobs` at a time on a core each; a sentence for each that failed.

    Raises ValueError when a JSON is there that was made with other flags.
    """
    sweep = Sweep(out, functools.partial(measure, score_px=score_px), jobs=jobs, keep_all=keep_all)
    wanted = [Job(run.name, tuple(run.flags(front_bias, extra)), asdict(run)) for run in runs]
    left = len(waiting(wanted, sweep))
    tell(f"{len(runs)} runs, {len(runs) - left} of them done before")
    ended = 0

    def told(job: Job, result: Result | RunFailed) -> None:
        nonlocal ended
        ended += 1
        if isinstance(result, RunFailed):
            tell(f"{ended}/{left} {job.name}: {result}")
        else:
            tell(f"{ended}/{left} {job.name}: psnr {result['scores']['psnr']:.2f} dB, {result['train_s']:.0f} s")

    return run_all(wanted, sweep, told)


def measure(folder: Path, log: Log, score_px: int) -> Result:
    """What an ablation keeps of a run."""
    return {
        "denoiser_calls": denoiser_calls(log),
        "skipped_steps": sum(step["fault"] is not None for step in log),
        "mechanism": mechanism(log),
        "scores": score_run(folder, score_px),
    }


def rescore(out: Path, runs: Iterable[Run], score_px: int) -> None:
    """Scores finished runs once more, from their last point clouds: after a change of the scores."""
    for run in runs:
        for result in read_results(out, [run.name]):
            result["scores"] = score_run(out / "runs" / run.name, score_px)
            write_result(out / f"{run.name}.json", result)
