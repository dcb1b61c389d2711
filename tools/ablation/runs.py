# SPDX-License-Identifier: Apache-2.0
"""Runs a grid: train.py's main in a process and on a core of its own for each run, which leaves a JSON file."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.known_truth import score_run
from tools.ablation.grid import ROOT, Run
from utils.general_utils import atomic_path

PRINTED = "printed.txt"
BULKY = (PRINTED, "events.out.tfevents.*", "log.jsonl", "init_points3d.ply", "train_process/*", "run.lock")
Result = dict[str, Any]
LATE_IMPORTS = (  # what train.py and its libraries import when they need it, together seconds
    "train",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "guidance.ideal",
    "guidance.linear_autoencoder",
    "guidance.sd_utils",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddim",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.clip.modeling_clip",
)


class RunFailed(RuntimeError):
    """A run that did not finish; the message ends with the last line that it printed."""


def run_all(
    runs: Sequence[Run],
    out: Path,
    front_bias: float,
    extra: Sequence[str],
    jobs: int,
    score_px: int,
    keep_all: bool,
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Does every run whose JSON is not there yet, `jobs` at a time; returns one sentence for each that failed.

    Raises ValueError when a JSON is there that was made with other flags.
    """
    wanted = [(run, run.flags(front_bias, extra)) for run in runs]
    waiting = [(run, flags) for run, flags in wanted if not _is_done(out, run, flags)]
    tell(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done before")

    def one(numbered: tuple[int, tuple[Run, list[str]]]) -> str | None:
        number, (run, flags) = numbered
        try:
            result = run_one(run, flags, out, score_px, keep_all)
        except RunFailed as failure:
            tell(f"{number}/{len(waiting)} {run.name}: {failure}")
            return f"{run.name}: {failure}"
        tell(f"{number}/{len(waiting)} {run.name}: psnr {result['scores']['psnr']:.2f} dB, {result['train_s']:.0f} s")
        return None

    with ThreadPoolExecutor(jobs) as pool:
        return [failure for failure in pool.map(one, enumerate(waiting, 1)) if failure]


def run_one(run: Run, flags: Sequence[str], out: Path, score_px: int, keep_all: bool) -> Result:
    """Trains, scores, writes out/<name>.json and returns what is in it. Raises RunFailed.

    The run has a process and a core of its own, forked from a server that has done the imports, half of a short run's
    time.
    """
    folder, path = out / "runs" / run.name, out / f"{run.name}.json"
    if folder.exists():
        shutil.rmtree(folder)  # of a run that was stopped
    folder.mkdir(parents=True)
    process = _forkserver().Process(target=_train_and_score, args=(run, flags, folder, path, score_px, keep_all))
    process.start()
    process.join()
    if process.exitcode != 0:
        printed = (folder / PRINTED).read_text(encoding="utf-8").strip() if (folder / PRINTED).is_file() else ""
        last = (printed or "nothing printed").splitlines()[-1]
        raise RunFailed(f"train.py ended with status {process.exitcode}: {last}")
    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def _forkserver() -> ForkServerContext:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the server and its children
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LATE_IMPORTS, __name__])
    return context


def _train_and_score(run: Run, flags: Sequence[str], folder: Path, path: Path, score_px: int, keep_all: bool) -> None:
    """The body of a run's process; what it prints goes to a file."""
    import train

    with (folder / PRINTED).open("w", encoding="utf-8") as printed:
        os.dup2(printed.fileno(), 1), os.dup2(printed.fileno(), 2)
    torch.set_num_threads(1)
    folder, path = folder.resolve(), path.resolve()
    os.chdir(ROOT)
    start = time.perf_counter()
    status = train.main([*flags, "--model_path", str(folder), "--checkpoint_every", "0"])
    if status != 0:
        sys.exit(status)
    train_s = time.perf_counter() - start
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    result = {
        **asdict(run),
        "flags": list(flags),
        "train_s": round(train_s, 1),
        "denoiser_calls": denoiser_calls(log),
        "skipped_steps": sum(step["fault"] is not None for step in log),
        "mechanism": mechanism(log),
        "scores": score_run(folder, score_px),
    }
    if not keep_all:
        for bulky in [bulky for pattern in BULKY for bulky in folder.glob(pattern)]:
            bulky.unlink()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def rescore(out: Path, runs: Iterable[Run], score_px: int) -> None:
    """Scores finished runs once more, from their last point clouds: after a change of the scores."""
    for result in read_results(out, runs):
        name = Run(**{key: result[key] for key in ("prior", "words", "prompt", "variant", "seed")}).name
        result["scores"] = score_run(out / "runs" / name, score_px)
        with atomic_path(out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_results(out: Path, runs: Iterable[Run]) -> list[Result]:
    """The JSON files of those runs that have one."""
    paths = [out / f"{run.name}.json" for run in runs]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def denoiser_calls(log: Sequence[dict[str, Any]]) -> int:
    """Views that went through the denoiser in a run, of the records of log.jsonl; a step of B views counts B times."""
    return sum(len(step["unet_timesteps"]) * len(step["t"]) for step in log)


def mechanism(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the parts of CoGrad did over a run.

    loss_explained_by_t is R^2 of log L on 20 timestep bins; the rest is there with CoGrad on: starved_share and
    largest_probability of the regions, clipped_share of the updates u, auxiliaries of a view and their mean cosine with
    g_main, norm_gain |g_fused| / |g_main| of the views that had any.
    """
    found = {"loss_explained_by_t": loss_explained_by_t(log)}
    steps = [step["cograd"] for step in log if step.get("cograd")]
    if not steps:
        return found
    views = [view for step in steps for view in step["fusion"]]
    updates = [(u, raw) for step in steps for u, raw in zip(step["u"], step["u_raw"]) if u is not None]
    cosines = [cosine for view in views for cosine in view["cosines"]]
    gains = [view["fused_norm"] / view["main_norm"] for view in views if view["cosines"] and view["main_norm"] > 0]
    return found | {
        "starved_share": steps[-1]["starved_share"],
        "largest_probability": max(step["largest_probability"] for step in steps),
        "clipped_share": _mean([u != raw for u, raw in updates]),
        "auxiliaries": len(cosines) / max(len(views), 1),
        "cosine": _mean(cosines),
        "norm_gain": _mean(gains),
    }


def loss_explained_by_t(log: Sequence[dict[str, Any]], bins: int = 20) -> float:
    """Share of the variance of log L that the mean of its timestep bin explains."""
    steps = [step for step in log if step["loss_per_view"]]
    pairs = [(t, L) for step in steps for t, L in zip(step["t"], step["loss_per_view"]) if L is not None and L > 0]
    if len(pairs) < 2:
        return 0.0
    t, log_L = np.array([pair[0] for pair in pairs]), np.array([math.log(pair[1]) for pair in pairs])
    bin_of = t * bins // (int(t.max()) + 1)
    explained = sum((bin_of == b).sum() * log_L[bin_of == b].mean() ** 2 for b in np.unique(bin_of))
    total = float(((log_L - log_L.mean()) ** 2).sum())
    return float(explained - len(log_L) * log_L.mean() ** 2) / total if total > 0 else 0.0


def _is_done(out: Path, run: Run, flags: Sequence[str]) -> bool:
    path = out / f"{run.name}.json"
    if not path.is_file():
        return False
    before = json.loads(path.read_text(encoding="utf-8"))["flags"]
    if before != list(flags):
        pairs = [Counter(zip(words[::2], words[1::2])) for words in (before, flags)]
        changed = [f"{name} {value}" for name, value in (pairs[0] - pairs[1]) + (pairs[1] - pairs[0])]
        raise ValueError(f"{path} was made with other flags ({', '.join(changed)}); give another --out or delete it")
    return True


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
