# SPDX-License-Identifier: Apache-2.0
"""The paper's tables 1 and 2, as far as this code can run them: python tools/reproduce.py [--prior toy] [--out FOLDER]

Every variant, prompt and seed is one run of train.py, which leaves one JSON file in FOLDER; called again, only what is
missing is done. The cost is printed first. At last FOLDER holds report.html (everything, one file), sheet.png (a look
at the first seed), table.csv, assets.csv, results.json, and janus/sheet.html for those who count faces.
With --verify FOLDER nothing is made: its numbers are compared with its clouds.
With --ray the runs are tasks of a Ray cluster instead of processes of this machine.
What follows `--` goes to train.py in every run: ... --out FOLDER -- --iterations 3000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse

from tqdm import tqdm

import train
from evaluation import METRICS
from evaluation.experiments.grid import TABLE_VARIANTS, TABLES, TOY_PRIORS
from evaluation.reproduction.measure import add_metrics
from evaluation.reproduction.order import Order, make_runs, order_of, placed
from evaluation.reproduction.outputs import left_out, write_all
from evaluation.reproduction.verify import verify
from utils.device import resolve_device
from utils.general_utils import check_writable

CONFIRM_FROM_HOURS = 2.0
OUT = {"toy": "toy_tables", "toy-trained": "toy_trained_tables"}


def parser() -> argparse.ArgumentParser:
    """All flags of this tool."""
    made = program.parser(__doc__)
    add = made.add_argument
    add("--out", type=Path, help="folder of the results; resumes there; default: output/tables, output/toy_tables")
    add("--prior", choices=["sd", *TOY_PRIORS], default="sd", help="toy: the embedded world, on a laptop")
    add("--variants", nargs="+", choices=TABLE_VARIANTS, help="default: the paper's; toy: ism too")
    add("--table", choices=TABLES, help="its rows; 1 and 2: the paper's, 1 by its laws; weights: w(t) and Adam's beta2")
    budget = "what rows have equally much of: network samples (default with --table), steps (default), minutes"
    add("--budget", choices=["samples", "steps", "minutes"], help=budget)
    add("--setting", choices=["own", "common"], default="own", help="a law's own numbers, or LucidDreamer's for all")
    add("--prompts", type=Path, metavar="FILE", help="a prompt a line, or a JSON list; default: the gallery's")
    add("--count", type=int, help="so many prompts of the list, by the rule of evaluation/prompts.py")
    add("--choice_seed", type=int, default=0, help="of that rule")
    add("--seeds", type=int, help="seeds 0, 1, ... of each cell; default: 1, toy: 4")
    add("--metrics", nargs="*", choices=list(METRICS), help="default: the paper's, toy: none")
    add("--weights", type=Path, help="folder of the metrics' hub repositories; default: the hub")
    add("--jobs", type=int, help="runs at a time; default: the GPUs, without one the cores")
    ray = "on the Ray cluster that this machine is part of, or on HOST:PORT or ray://HOST:PORT"
    add("--ray", nargs="?", const="auto", metavar="ADDRESS", help=ray)
    add("--tflops", type=float, default=100.0, help="half precision that a GPU sustains; for the estimate")
    add("--view_px", type=int, default=192, help="side of the report's images")
    add("--miniature", action="store_true", help="toy: one prompt, two seeds, 40 steps; two minutes")
    add("--yes", action="store_true", help=f"start even if it takes more than {CONFIRM_FROM_HOURS:g} hours")
    add("--dry_run", action="store_true", help="print what would be made and what it costs")
    add("--part", metavar="K/N", help="only every N-th asset, from the K-th on: the part of one of N machines")
    add("--verify", type=Path, metavar="FOLDER", help="compute all numbers of FOLDER again from its clouds")
    add("--report_only", action="store_true", help="make nothing; tables and report of what is there")
    return made


@program.refuses("reproduce", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 everything is there, 1 some assets failed, 2 bad input, 130 interrupted."""
    own, of_train = program.split_at_dashes(argv)
    made = parser()
    args, given = made.parse_args(own), program.given_flags(made, own)
    if args.verify:
        program.refuse_unread(given, "--verify", given.keys() - {"verify", "weights"})
        if of_train:
            raise ValueError(f"{of_train[0]} after `--` has no effect with --verify, which runs nothing; leave it out")
        return _verified(args)
    if args.prior in TOY_PRIORS:
        program.refuse_unread(given, f"--prior {args.prior}, whose cost is known", {"tflops"})
    if args.report_only:
        program.refuse_unread(given, "--report_only", {"dry_run"})
    args.out = args.out or Path("output", OUT.get(args.prior, "tables"))
    check_writable(args.out / "report.html")
    try:
        order = order_of(args, of_train, train.main)
        if args.weights and not order.metrics:
            raise ValueError(f"--weights {args.weights} has no effect without a metric; add --metrics, or leave it out")
        failures = [] if args.report_only else _made(order, args)
        if args.dry_run and not args.report_only:
            return 0
        if args.part and not args.report_only:
            print("This part is done; --report_only, without --part, makes tables and report once all are.")
            return 1 if failures else 0
        missing = left_out(order)
        missing |= add_metrics(order.sweep, order.runs, order.metrics, resolve_device("auto"), args.weights, tqdm.write)
        path = write_all(order, failures, missing, tqdm.write)
    except KeyboardInterrupt:
        name = program.command_of("reproduce")
        print(f"{name}: interrupted; the same command resumes where this one stopped", file=sys.stderr)
        return program.KILLED
    for failure in failures:
        print(f"reproduce: failed: {failure}")
    print(f"The report is {path}")
    return 1 if failures else 0


def _verified(args: argparse.Namespace) -> int:
    """Exit status 1 where a number differs or could not be computed again."""
    checked = verify(args.verify, resolve_device("auto"), args.weights)
    for line in (*checked.differences, *(f"not checked: {reason}" for reason in checked.unchecked)):
        print(line)
    counts = f"{len(checked.differences)} differ, {len(checked.unchecked)} things were not checked"
    print(f"{checked.numbers} numbers were computed again; {counts}.")
    return 1 if checked.differences or checked.unchecked else 0


def _made(order: Order, args: argparse.Namespace) -> list[str]:
    """Makes what is missing; a sentence for each asset that failed. ValueError where it takes too long to start."""
    with placed(order, args.ray, args.jobs) as (order, one_pass):
        cost = order.expected_cost(args.tflops)
        done = len(order.runs) - cost.assets
        print(f"{len(order.runs)} assets, {done} of them made before. {cost}, on {order.where}.", flush=True)
        if args.dry_run:
            return []
        if cost.hours > CONFIRM_FROM_HOURS and not args.yes:
            raise ValueError(f"that is more than {CONFIRM_FROM_HOURS:g} hours; add --yes to start, or --count for less")
        args.out.mkdir(parents=True, exist_ok=True)
        return make_runs(order, one_pass)


if __name__ == "__main__":
    program.run(main)
