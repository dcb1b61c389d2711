# SPDX-License-Identifier: Apache-2.0
"""Finds, for each object, the front bias at which the schedule alone leaves it clean about half of the time.

A one-up one-down staircase: after a clean run the bias rises by a step, after another it falls; the step doubles up to
LARGEST_STEP until the first turn, and halves at each turn down to SMALLEST_STEP. It hovers where clean and not clean
are equally likely (Dixon and Mood 1948). Every trial is a run with a seed of its own, from FIRST_SEED on, so that no
seed of the experiment was used for choosing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.experiments.runs import Result, Run, read_results
from utils.general_utils import write_text_atomically

FIRST_BIAS, FIRST_STEP, SMALLEST_STEP, LARGEST_STEP = 0.8, 0.08, 0.02, 0.24
FIRST_SEED = 1000
VARIANT = "schedule_only"


@dataclass(frozen=True)
class Staircase:
    """Biases that were tried and whether the object came out clean; `bias` is the next to try."""

    tried: tuple[float, ...]
    clean: tuple[bool, ...]
    bias: float

    @property
    def estimate(self) -> float:
        """Mean of the biases from the second turn on, or of the last half where there are fewer; in hundredths."""
        turns = [k for k in range(1, len(self.clean)) if self.clean[k] != self.clean[k - 1]]
        start = turns[1] if len(turns) > 1 else len(self.tried) // 2
        return round(float(np.mean([*self.tried[start:], self.bias])), 2)


def climbed(clean: Sequence[bool]) -> Staircase:
    """The staircase after these outcomes."""
    bias, step, tried = FIRST_BIAS, FIRST_STEP, []
    for number, outcome in enumerate(clean):
        if number and outcome != clean[number - 1]:
            step = max(step / 2, SMALLEST_STEP)
        elif number and len(set(clean[: number + 1])) == 1:
            step = min(2 * step, LARGEST_STEP)
        tried.append(bias)
        bias = round(min(max(bias + (step if outcome else -step), 0.02), 1.0), 4)
    return Staircase(tuple(tried), tuple(clean), bias)


def compared(results: Sequence[Result]) -> list[Result]:
    """Without a calibration's trials, by their seeds: one variant alone, at front biases chosen from its results."""
    return [result for result in results if result["seed"] < FIRST_SEED]


def calibrate(
    make: Callable[..., Run],
    prompts: Sequence[str],
    trials: int,
    out: Path,
    run_grid: Callable[[Sequence[Run]], list[str]],
) -> dict[str, float]:
    """Prompt -> bias, also written to `out`/front_bias.json. `run_grid` makes runs and returns the failures.

    Each round makes the next trial of every object that is not there yet, by make(front_bias=, prompt=, variant=,
    seed=). Raises ValueError for a run that failed.
    """
    stairs = {prompt: climbed([]) for prompt in prompts}
    for number in range(trials):
        cell = {"variant": VARIANT, "seed": FIRST_SEED + number}
        runs = {prompt: make(front_bias=stairs[prompt].bias, prompt=prompt, **cell) for prompt in prompts}
        if failures := run_grid(list(runs.values())):
            raise ValueError(f"a run of the calibration failed: {failures[0]}")
        for prompt, run in runs.items():
            [result] = read_results(out, [run.name])
            stairs[prompt] = climbed([*stairs[prompt].clean, bool(result["scores"]["clean"])])
    biases = {prompt: stair.estimate for prompt, stair in stairs.items()}
    stored = {prompt: {"bias": biases[prompt], "tried": s.tried, "clean": s.clean} for prompt, s in stairs.items()}
    write_text_atomically(out / "front_bias.json", json.dumps(stored, indent=1) + "\n")
    return biases


def read_biases(path: Path, prompts: Sequence[str]) -> dict[str, float]:
    """Prompt -> bias from front_bias.json. ValueError where it lacks a prompt or is not valid."""
    try:
        stored = json.loads(path.read_bytes())
        return {prompt: float(stored[prompt]["bias"]) for prompt in prompts}
    except (OSError, ValueError, TypeError) as problem:
        raise ValueError(f"{path} is not a front_bias.json that --calibrate wrote: {problem}") from problem
    except KeyError as missing:
        raise ValueError(f"{path} lacks the object {missing}; calibrate it, or leave it out of --objects") from missing
