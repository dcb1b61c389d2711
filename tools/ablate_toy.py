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

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import functools
import os
from collections.abc import Sequence

import torch

import train
from arguments.further import refuse_set
from evaluation.ablation.report import write_report
from evaluation.ablation.scores import measure, rescore, run_grid
from evaluation.ablation.staircase import FIRST_SEED, calibrate, compared, read_biases
from evaluation.experiments.grid import (
    ABLATION_VARIANTS,
    CONFIGS,
    FRONT_OBJECTS,
    OBJECTS,
    VARIANTS,
    ablation_run,
    check_regions,
    configs_of,
    runs_of,
)
from evaluation.experiments.runs import Run, Sweep, read_folder, read_results
from evaluation.orbit_flags import check_size
from utils.general_utils import check_writable

RESCORE_READS = {"rescore", "jobs", "score_px"}
CALIBRATE_READS = {"calibrate", "out", "priors", "objects", "jobs", "score_px", "film"}
BOUNDS: dict[str, tuple[float, float]] = {
    "seeds": (1, FIRST_SEED),  # those from there on are the calibration's
    "jobs": (1, 1000),
    "film": (1, 10_000),
    "calibrate": (0, 1000),
    "weak": (0.001, 1),
}


def parser() -> argparse.ArgumentParser:
    """All flags of this tool."""
    made = program.parser(__doc__)
    where = made.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder of the results; resumes there")
    where.add_argument("--rescore", type=Path, metavar="FOLDER", help="score the clouds in FOLDER again; run nothing")
    add = made.add_argument
    add("--priors", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    add("--words", nargs="+", choices=["full", "weak"], default=["full", "weak"], help="view words")
    add("--weak", type=float, default=0.7, help="GuidanceParams.front_bias of weak words")
    add("--front_bias", type=Path, metavar="FILE.json", help="of weak words, an object each")
    add("--objects", nargs="+", default=list(OBJECTS), metavar="PROMPT", help="prompts of the toy world")
    add("--front_objects", action="store_const", dest="objects", const=list(FRONT_OBJECTS))
    add("--variants", nargs="+", choices=[n for n, v in VARIANTS.items() if not v.flags], default=ABLATION_VARIANTS)
    add("--seeds", type=int, default=8, help="seeds 0, 1, ... of each cell")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    add("--score_px", type=int, default=64, help="side of the scored images in pixels")
    add("--calibrate", type=int, default=0, metavar="TRIALS", help="find front biases in this many trials")
    add("--film", type=int, default=1, metavar="SNAPSHOTS", help="snapshots kept of each run")
    add("--summary_only", action="store_true", help="run nothing; of the results that are there")
    return made


@program.refuses("ablate_toy", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 all runs are there, 1 some failed or lack their clouds, 2 bad input."""
    own, of_train = program.split_at_dashes(argv)
    made = parser()
    args = made.parse_args(own)
    program.check_bounds(args, BOUNDS)
    _check_modes(args, program.given_flags(made, own))
    if args.rescore and of_train:
        raise ValueError(f"{of_train[0]} after `--` has no effect with --rescore, which runs nothing; leave it out")
    check_size("--score_px", args.score_px)
    refuse_set(of_train, {"save_ratio": "--film"})
    check_writable((args.out or args.rescore) / "summary.md")
    torch.set_num_threads(1)  # scoring runs beside the other runs
    make = functools.partial(ablation_run, extra=[*of_train, "--save_ratio", str(args.film)])
    return (_rescore if args.rescore else _calibrate if args.calibrate else _compare)(args, make)


def _check_modes(args: argparse.Namespace, given: dict[str, str]) -> None:
    """ValueError for a flag that the others leave without effect."""
    if args.rescore:
        program.refuse_unread(given, "--rescore", given.keys() - RESCORE_READS)
    if args.calibrate:
        program.refuse_unread(given, "--calibrate", given.keys() - CALIBRATE_READS)
    if "weak" not in args.words:
        program.refuse_unread(given, "--words full", {"front_bias", "weak"})
    if args.front_bias is not None:
        program.refuse_unread(given, "--front_bias", {"weak"})


def _compare(args: argparse.Namespace, make: functools.partial[Run]) -> int:
    weak = read_biases(args.front_bias, args.objects) if args.front_bias else dict.fromkeys(args.objects, args.weak)

    def cell(words: str, prompt: str, **rest: str) -> Run:
        return make(front_bias=weak[prompt] if words == "weak" else 0.0, prompt=prompt, **rest)

    axes = {"prior": args.priors, "words": args.words, "prompt": args.objects, "variant": args.variants}
    runs = runs_of(cell, args.seeds, **axes)
    failures = [] if args.summary_only else _run(args, runs)
    results = read_results(args.out, [run.name for run in runs])
    if args.summary_only and not results:
        raise ValueError(f"{args.out} holds no finished run of these; leave out --summary_only to make them.")
    print(write_report(args.out, results))
    for failure in failures:
        print(f"ablate_toy: failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _calibrate(args: argparse.Namespace, make: functools.partial[Run]) -> int:
    for prior in args.priors[1:]:
        raise ValueError(f"--calibrate: expected one prior, got {prior} too; give --priors ideal")
    make = functools.partial(make, args.priors[0])
    for prompt, bias in calibrate(make, args.objects, args.calibrate, args.out, functools.partial(_run, args)).items():
        print(f"{bias:.2f}  {prompt}")
    return 0


def _run(args: argparse.Namespace, runs: Sequence[Run]) -> list[str]:
    for source, config in configs_of(runs).items():
        check_regions(config, source)
    args.out.mkdir(parents=True, exist_ok=True)
    measured = functools.partial(measure, score_px=args.score_px)
    return run_grid(runs, Sweep(args.out, train.main, measured, jobs=args.jobs))


def _rescore(args: argparse.Namespace, make: functools.partial[Run]) -> int:
    if not args.rescore.is_dir():
        raise ValueError(f"--rescore {args.rescore}: no such folder")
    if not read_folder(args.rescore):
        raise ValueError(f"--rescore {args.rescore}: holds no finished run; give the --out of an earlier call.")
    lost = rescore(args.rescore, args.jobs, args.score_px)
    print(write_report(args.rescore, compared(read_folder(args.rescore))))
    for name in lost:
        print(f"ablate_toy: {name} keeps its old scores: its cloud is not in {args.rescore}/clouds", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    program.run(main)
