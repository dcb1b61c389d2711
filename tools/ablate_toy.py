# SPDX-License-Identifier: Apache-2.0
"""Which part of CoGrad3D does what, on the toy world's ground truth: python tools/ablate_toy.py --out FOLDER

Every variant, prior, strength of the view words, object and seed is one run of train.py on one core, with an equal
number of steps and views. A finished run leaves one JSON file in FOLDER; called again, only the missing ones are done.
At last FOLDER/summary.md is written and printed (scores, paired differences with standard errors), and runs.csv, a line
a run.
What follows `--` goes to train.py in every run: ... --out FOLDER -- --iterations 600
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from tools.ablation.grid import OBJECTS, OTHER_OBJECTS, PAPER_VARIANTS, PRIORS, VARIANTS, check_runs, runs_of
from tools.ablation.pictures import sheet
from tools.ablation.runs import rescore, run_grid
from tools.ablation.summary import runs_csv, summary
from tools.sweep.runs import read_results
from utils.image_utils import write_png


def parser() -> argparse.ArgumentParser:
    """All flags of this tool."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of the results; go on in it")
    made.add_argument("--priors", nargs="+", choices=list(PRIORS), default=list(PRIORS))
    made.add_argument("--words", nargs="+", choices=["full", "weak"], default=["full", "weak"], help="view words")
    made.add_argument("--weak", type=float, default=0.7, help="GuidanceParams.front_bias of weak words")
    made.add_argument("--objects", nargs="+", default=list(OBJECTS), metavar="PROMPT", help="prompts of the toy world")
    made.add_argument("--other_objects", action="store_const", dest="objects", const=list(OTHER_OBJECTS))
    made.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=PAPER_VARIANTS)
    made.add_argument("--seeds", type=int, default=8, help="seeds 0, 1, ... of each cell")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    made.add_argument("--score_px", type=int, default=128, help="side of the scored pictures in pixels")
    made.add_argument("--keep_all", action="store_true", help="keep the runs' logs too")
    made.add_argument("--rescore", action="store_true", help="run nothing; score the runs that are there again")
    made.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the scenes there too, a row each")
    made.add_argument("--picture_px", type=int, default=96, help="side of each view in it")
    made.add_argument("--summary_only", action="store_true", help="run nothing; of the results that are there")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all runs are there, 1 some failed, 2 bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    made = parser()
    args, extra = made.parse_args(words[:split]), words[split + 1 :]
    if min(args.seeds, args.jobs) < 1 or not 0 <= args.weak <= 1:
        made.error("--seeds and --jobs are 1 or more, --weak is 0..1")
    torch.set_num_threads(1)  # scoring runs beside the other runs
    runs = runs_of(args.priors, args.words, args.objects, args.variants, args.seeds)
    failures: list[str] = []
    try:
        if args.rescore:
            rescore(args.out, runs, args.score_px)
        elif not args.summary_only:
            check_runs(runs, args.weak, extra)
            args.out.mkdir(parents=True, exist_ok=True)
            failures = run_grid(runs, args.out, args.weak, extra, args.jobs, args.score_px, args.keep_all)
        if args.picture:
            write_png(args.picture, sheet(args.out, runs, args.picture_px))
    except ValueError as problem:
        print(f"ablate_toy: {problem}", file=sys.stderr)
        return 2
    results = read_results(args.out, [run.name for run in runs])
    text = summary(results)
    if args.out.is_dir():
        (args.out / "summary.md").write_text(text + "\n", encoding="utf-8")
        (args.out / "runs.csv").write_text(runs_csv(results), encoding="utf-8")
    print(text)
    print("\n".join(f"ablate_toy: failed: {failure}" for failure in failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
