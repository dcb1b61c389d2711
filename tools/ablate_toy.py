# SPDX-License-Identifier: Apache-2.0
"""Which part of CoGrad3D does what, on the toy world's ground truth: python tools/ablate_toy.py --out FOLDER

Every variant, prior, strength of the view words, object and seed is one run of train.py on one core, with an equal
number of steps and views. A finished run leaves one JSON file in FOLDER and its cloud in FOLDER/clouds; called again,
only the missing ones are done. At last FOLDER/summary.md is written and printed (scores, paired tests), with runs.csv,
a line a run, and sheets of the first seeds (sheet_*.png): look at them before you trust a number.
What follows `--` goes to train.py in every run: ... --out FOLDER -- --iterations 600

    --calibrate TRIALS   finds each object's front bias where the schedule alone is clean half of the time, and writes
                         FOLDER/front_bias.json for --front_bias
    --film SNAPSHOTS     keeps that many snapshots of each run: film.csv and film_*.png show when an outcome tips
    --rescore FOLDER     runs nothing: scores every kept cloud of FOLDER again, after a change of the scores
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import os
from collections.abc import Sequence

import torch

from evaluation.ablation.film import figure, film_csv
from evaluation.ablation.grid import (
    FRONT_OBJECTS,
    OBJECTS,
    OTHER_OBJECTS,
    PAPER_VARIANTS,
    PRIORS,
    VARIANTS,
    Run,
    check_runs,
    runs_of,
)
from evaluation.ablation.pictures import first_seeds, results_in, sheet
from evaluation.ablation.runs import rescore, run_grid
from evaluation.ablation.staircase import calibrate, read_biases
from evaluation.ablation.summary import runs_csv, summary
from evaluation.sweep.runs import Result, read_results
from utils.image_utils import write_png


def parser() -> argparse.ArgumentParser:
    """All flags of this tool."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = made.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of the results; resumes there")
    where.add_argument("--rescore", type=Path, metavar="FOLDER", help="score the clouds in FOLDER again; run nothing")
    made.add_argument("--priors", nargs="+", choices=list(PRIORS), default=list(PRIORS))
    made.add_argument("--words", nargs="+", choices=["full", "weak"], default=["full", "weak"], help="view words")
    made.add_argument("--weak", type=float, default=0.7, help="GuidanceParams.front_bias of weak words")
    made.add_argument("--front_bias", type=Path, metavar="FILE.json", help="of weak words, an object each")
    made.add_argument("--objects", nargs="+", default=list(OBJECTS), metavar="PROMPT", help="prompts of the toy world")
    for flag, prompts in (("--other_objects", OTHER_OBJECTS), ("--front_objects", FRONT_OBJECTS)):
        made.add_argument(flag, action="store_const", dest="objects", const=list(prompts))
    made.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=PAPER_VARIANTS)
    made.add_argument("--seeds", type=int, default=8, help="seeds 0, 1, ... of each cell")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    made.add_argument("--score_px", type=int, default=64, help="side of the scored images in pixels")
    made.add_argument(
        "--calibrate", type=int, default=0, metavar="TRIALS", help="find front biases in this many trials"
    )
    made.add_argument("--film", type=int, default=1, metavar="SNAPSHOTS", help="snapshots kept of each run")
    made.add_argument("--keep_all", action="store_true", help="keep the runs' logs and clouds in FOLDER/runs too")
    made.add_argument("--sheet_seeds", type=int, default=2, help="seeds that the sheets show")
    made.add_argument("--summary_only", action="store_true", help="run nothing; of the results that are there")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all runs are there, 1 some failed or lack their clouds, 2 bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    made = parser()
    args, extra = made.parse_args(words[:split]), words[split + 1 :]
    if min(args.seeds, args.jobs, args.film, args.sheet_seeds) < 1 or args.calibrate < 0 or not 0 < args.weak <= 1:
        made.error("--seeds, --jobs, --film and --sheet_seeds: expected 1 or more; --weak: above 0, at most 1")
    torch.set_num_threads(1)  # scoring runs beside the other runs
    try:
        if args.rescore:
            return _rescored(args)
        return _calibrated(args, extra) if args.calibrate else _compared(args, extra)
    except ValueError as problem:
        print(f"ablate_toy: {problem}", file=sys.stderr)
        return 2


def _compared(args: argparse.Namespace, extra: Sequence[str]) -> int:
    given = args.front_bias is not None and "weak" in args.words
    weak = read_biases(args.front_bias, args.objects) if given else dict.fromkeys(args.objects, args.weak)
    runs = runs_of(args.priors, args.words, args.objects, args.variants, args.seeds, weak)
    failures = [] if args.summary_only else _run(args, extra, runs)
    _report(args.out, read_results(args.out, [run.name for run in runs]), args.sheet_seeds)
    print("\n".join(f"ablate_toy: failed: {failure}" for failure in failures), file=sys.stderr)
    return 1 if failures else 0


def _calibrated(args: argparse.Namespace, extra: Sequence[str]) -> int:
    for prior in args.priors[1:]:
        raise ValueError(f"--calibrate: expected one prior, got {prior} too; give --priors ideal")
    biases = calibrate(args.priors[0], args.objects, args.calibrate, args.out, lambda runs: _run(args, extra, runs))
    print("\n".join(f"{bias:.2f}  {prompt}" for prompt, bias in biases.items()))
    return 0


def _run(args: argparse.Namespace, extra: Sequence[str], runs: Sequence[Run]) -> list[str]:
    extra = [*extra, "--save_ratio", str(args.film)]
    check_runs(runs, extra)
    args.out.mkdir(parents=True, exist_ok=True)
    return run_grid(runs, args.out, extra, args.jobs, args.score_px, args.keep_all)


def _rescored(args: argparse.Namespace) -> int:
    if not args.rescore.is_dir():
        raise ValueError(f"--rescore {args.rescore}: no such folder")
    lost = rescore(args.rescore, args.jobs, args.score_px)
    _report(args.rescore, results_in(args.rescore), args.sheet_seeds)
    for name in lost:
        print(f"ablate_toy: {name} keeps its old scores: its cloud is not in {args.rescore}/clouds", file=sys.stderr)
    return 1 if lost else 0


def _report(out: Path, results: Sequence[Result], sheet_seeds: int) -> None:
    """summary.md (printed too), runs.csv, film.csv, and the sheets, one for each prior and strength of the words."""
    text = summary(results)
    if out.is_dir() and results:
        (out / "summary.md").write_text(text + "\n", encoding="utf-8")
        (out / "runs.csv").write_text(runs_csv(results), encoding="utf-8")
        films = any("film" in result for result in results)
        if films:
            (out / "film.csv").write_text(film_csv(results), encoding="utf-8")
        for prior, words in sorted({(result["prior"], result["words"]) for result in results}):
            block = [result for result in results if (result["prior"], result["words"]) == (prior, words)]
            shown = first_seeds(block, sheet_seeds)
            write_png(out / f"sheet_{prior}_{words}.png", sheet(out, shown, side_px=96))
            strips = figure(shown)
            if strips is not None:
                write_png(out / f"film_{prior}_{words}.png", strips)
    print(text)


if __name__ == "__main__":
    program.run(main)
