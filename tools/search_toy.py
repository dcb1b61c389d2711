# SPDX-License-Identifier: Apache-2.0
"""The search for fewer wrong fronts: candidates against the paper's rule and its schedule alone, on the toy world.

    python tools/search_toy.py --out FOLDER --seeds 12

Runs in FOLDER are not repeated. Weak view words, at the bias where the schedule alone leaves the object clean about
half of the time (benchmarks/results/ablation.md), 400 steps of four views at 48 px, the ideal prior. A candidate is a
variant of the ablation with further flags, or with a rule of tools/search_rules.py. FOLDER/search.md has the tables,
FOLDER/search.csv a line a run, FOLDER/sheet.png first seeds to look at.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import train
from evaluation.ablation import outcomes
from evaluation.ablation.report import first_seeds, sheet
from evaluation.ablation.scores import measure, run_grid
from evaluation.ablation.summary import paired_differences, runs_csv
from evaluation.experiments.grid import ablation_run, with_flags
from evaluation.experiments.runs import Result, Run, Sweep, read_results
from evaluation.experiments.tables import by_variant, mean_and_error
from tools.search_rules import train_by
from utils.general_utils import check_writable, write_text_atomically
from utils.image_utils import write_png
from utils.wording import markdown

OBJECTS = {
    "a cyan robot with orange arms": 0.71,
    "a purple owl with green belly": 0.79,
    "a white snowman with red hat": 0.54,
    "a yellow mug with blue handle": 0.29,
}
"""Prompt -> front bias; on the last two nothing was chosen."""
SIZE = (
    *("--iterations", "400", "--warmup_iter", "400", "--save_ratio", "1"),
    *("--image_w", "48", "--image_h", "48", "--init_num_pts", "1000"),
)


@dataclass(frozen=True)
class Candidate:
    """An ablation's variant, with further flags of train.py, and a rule of tools/search_rules.py."""

    variant: str
    flags: dict[str, str] = field(default_factory=dict)
    rule: str | None = None

    @property
    def train(self) -> Callable[[list[str]], int]:
        """What trains it."""
        return functools.partial(train_by, self.rule) if self.rule else train.main


OPPOSITE = {"CoGradParams.opposite_views": "true"}
HIFA, ESD = ({"distillation": law, "guidance_scale": "7.5"} for law in ("hifa", "esd"))
CANDIDATES = {
    "schedule_only": Candidate("schedule_only"),
    "full": Candidate("full"),
    "opposite": Candidate("schedule_only", OPPOSITE),
    "opposite, fusion": Candidate("fusion_alone", OPPOSITE),
    "opposite, full": Candidate("full", OPPOSITE),
    "opposite, hifa": Candidate("schedule_only", OPPOSITE | HIFA),
    "hifa": Candidate("schedule_only", HIFA),
    "esd": Candidate("schedule_only", ESD),
    "disagreement": Candidate("full", rule="disagreement"),
    "disagreement, schedule": Candidate("full", {"CoGradParams.timestep_mode": "schedule"}, "disagreement"),
    "rerendered": Candidate("full", rule="rerendered"),
    "rerendered, fusion": Candidate("fusion_alone", rule="rerendered"),
    "snr": Candidate("full", rule="snr"),
    "snr, schedule": Candidate("schedule_only", rule="snr"),
}
BASES = ("schedule_only", "full")
SCORES = {"psnr": 2, "detail": 3, "front_share": 2}


def run_of(name: str, prompt: str, seed: int) -> Run:
    """One run of a candidate."""
    candidate = CANDIDATES[name]
    run = with_flags(
        ablation_run("ideal", OBJECTS[prompt], prompt, candidate.variant, seed, SIZE),
        candidate.flags,
        name.replace(", ", "_"),
    )
    return dataclasses.replace(run, facts={**run.facts, "variant": name})


def table(results: list[Result]) -> str:
    """Markdown: shares of clean objects with paired tests, then differences of scores."""
    contrasts = [(f"{name} - {base}", name, base) for name in CANDIDATES for base in BASES if name not in BASES]
    rows = []
    for name, own in by_variant(results).items():
        cells: list[Any] = [name, str(len(own))]
        for base in BASES:
            for score, decimals in SCORES.items():
                differences = paired_differences(results, name, base, score)
                mean, error = mean_and_error(differences)
                cells.append(f"{mean:+.{decimals}f} +- {error:.{decimals}f}" if name != base else "")
        rows.append(cells)
    head = ["candidate", "runs", *(f"{score}, against {base}" for base in BASES for score in SCORES)]
    lines = [*outcomes.tables(results, contrasts), "Paired differences, mean +- standard error:", ""]
    return "\n".join([*lines, markdown(head, rows)])


@program.refuses("search_toy", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 all runs are there, 1 some failed."""
    parser = program.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; finished ones are kept")
    parser.add_argument("--seeds", type=int, default=16, help="seeds 0, 1, ... of each candidate and object")
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--objects", nargs="+", choices=list(OBJECTS), default=list(OBJECTS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args(argv)
    program.check_bounds(args, {"seeds": (1, 100_000), "jobs": (1, 1000)})
    check_writable(args.out / "search.md")
    torch.set_num_threads(1)  # scoring runs beside the other runs
    args.out.mkdir(parents=True, exist_ok=True)
    failures = []
    for seed in range(args.seeds):  # what is stopped early has whole pairs
        for name in args.candidates:
            runs = [run_of(name, prompt, seed) for prompt in args.objects]
            sweep = Sweep(args.out, CANDIDATES[name].train, functools.partial(measure, score_px=64), args.jobs)
            failures += run_grid(runs, sweep)
    cells = itertools.product(range(args.seeds), CANDIDATES, OBJECTS)
    results = read_results(args.out, [run_of(name, prompt, seed).name for seed, name, prompt in cells])
    write_text_atomically(args.out / "search.md", table(results) + "\n")
    write_text_atomically(args.out / "search.csv", runs_csv(results))
    write_png(args.out / "sheet.png", sheet(args.out, first_seeds(results, 2), 96))
    print(table(results))
    for failure in failures:
        print(f"search_toy: failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    program.run(main)
