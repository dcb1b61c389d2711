# SPDX-License-Identifier: Apache-2.0
"""Runs an ablation's grid, and scores each run against the known truth."""

import functools
import hashlib
import itertools
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import toy
from evaluation import known_truth
from evaluation.ablation import clouds
from evaluation.experiments.facts import denoiser_calls, mechanism
from evaluation.experiments.runs import (
    Log,
    Result,
    Run,
    RunFailed,
    Sweep,
    read_folder,
    read_results,
    run_all,
    waiting,
    write_result,
)
from toy import fronts
from toy.reading import parse_prompt
from toy.scoring import score_object

FILM_STEP_DEG = 15
"""Between the azimuths that are looked at in each snapshot of a film."""


def run_grid(runs: Sequence[Run], sweep: Sweep, report: Callable[[str], None] = print) -> list[str]:
    """Makes every run whose JSON is not there yet; a sentence for each that failed, and `report` gets a line for each.

    Raises ValueError when a JSON is there that was made with other flags.
    """
    left = len(waiting(runs, sweep))
    report(f"{len(runs)} runs, {len(runs) - left} of them done before")
    numbers = itertools.count(1)

    def on_end(run: Run, result: Result | RunFailed) -> None:
        if isinstance(result, RunFailed):
            outcome = str(result)
        else:
            outcome = f"{_headline(result['scores'])}, {result['train_s']:.0f} s"
        report(f"{next(numbers)}/{left} {run.name}: {outcome}")

    return run_all(runs, sweep, on_end)


def _headline(scores: dict[str, Any]) -> str:
    share = scores["front_share"]
    faces = "" if share is None else f", front share {share:.2f}, {'clean' if scores['clean'] else 'not clean'}"
    return f"psnr {scores['psnr']:.2f} dB{faces}"


def measure(folder: Path, log: Log, score_px: int) -> Result:
    """What an ablation keeps of a run. Its clouds move to clouds/."""
    kept = clouds.folder_of(folder.parents[1], folder.name)
    shutil.rmtree(kept, ignore_errors=True)  # of a run that was stopped
    clouds.keep(folder, kept)
    shutil.rmtree(folder / "point_cloud")
    prompt = known_truth.config_of_run(folder).guidance.text
    result = {
        "denoiser_calls": denoiser_calls(log),
        "skipped_steps": sum(step["fault"] is not None for step in log),
        "mechanism": mechanism(log),
        **scored(kept, prompt, score_px),
    }
    if "film" in result:
        result["film"] |= draws(log, result["film"]["iteration"])
    return result


def scored(kept: Path, prompt: str, score_px: int) -> Result:
    """`scores` of the last snapshot in the folder and, where there are several, `film`: the assignment in each."""
    spec = parse_prompt(prompt)
    taken = [clouds.load(path) for path in clouds.snapshots(kept)]
    last = taken[-1]
    scores = score_object(known_truth.renderer_of_gaussians(last.cloud), spec, last.radius, last.fov_rad, score_px)
    result: Result = {"scores": {**scores, "size_px": score_px, "yardstick": yardstick_digest()}}
    if len(taken) > 1:
        looks = [
            fronts.scan(known_truth.renderer_of_gaussians(s.cloud), spec, s.radius, s.fov_rad, FILM_STEP_DEG)
            for s in taken
        ]
        assigned = [look.assigned_deg.tolist() for look in looks]
        result["film"] = {"iteration": [s.iteration for s in taken], "assigned_deg": assigned}
    return result


def draws(log: Log, iterations: Sequence[int]) -> dict[str, Any]:
    """What was drawn before each snapshot, since the one before: mean timestep, and views in eight azimuth bins.

    Bin k holds azimuths 45 k - 22.5 .. 45 k + 22.5 degrees.
    """
    means, bins = [], []
    for first, last in zip([0, *iterations], iterations):
        steps = [step for step in log if first < step["iteration"] <= last]
        means.append(float(np.mean([t for step in steps for t in step["t"]])))
        azimuths = np.array([azimuth for step in steps for azimuth in step["azimuth_deg"]])
        bins.append(np.bincount(np.rint(azimuths / 45).astype(int) % 8, minlength=8).tolist())
    return {"t_mean": means, "views_by_azimuth": bins}


@functools.cache
def yardstick_digest() -> str:
    """Changes when a source that the scores depend on does: which scores are out of date."""
    sources = sorted(Path(toy.__file__).parent.glob("*.py")) + [Path(known_truth.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def rescore(out: Path, jobs: int, score_px: int, report: Callable[[str], None] = print) -> list[str]:
    """Scores the kept clouds of every finished run in `out` again, unless today's yardstick did.

    `jobs` at a time, at the lowest priority; can be stopped and called again. Returns the names of runs without clouds.
    """
    results, today = read_folder(out), (yardstick_digest(), score_px)
    left = [r for r in results if (r["scores"].get("yardstick"), r["scores"].get("size_px")) != today]
    left.sort(key=lambda result: result["prompt"])  # an object's truth is rendered once a process
    lost = [result["name"] for result in left if not clouds.snapshots(clouds.folder_of(out, result["name"]))]
    names = [result["name"] for result in left if result["name"] not in lost]
    report(f"{len(results)} runs, {len(results) - len(left)} of them scored by this yardstick before")
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, max(len(names), 1)), _lowest_priority) as pool:
        work = functools.partial(_rescore_one, out, score_px)
        for number, (name, headline) in enumerate(pool.imap_unordered(work, names, chunksize=4), 1):
            report(f"{number}/{len(names)} {name}: {headline}")
    return lost


def _lowest_priority() -> None:
    os.nice(19)
    torch.set_num_threads(1)


def _rescore_one(out: Path, score_px: int, name: str) -> tuple[str, str]:
    [result] = read_results(out, [name])
    found = scored(clouds.folder_of(out, name), result["prompt"], score_px)
    if "film" in found:
        found["film"] = {**result.get("film", {}), **found["film"]}
    write_result(out / f"{name}.json", {**result, **found})
    return name, _headline(found["scores"])
