# SPDX-License-Identifier: Apache-2.0
"""Counts the Janus problem without knowing who made what.

python tools/janus.py sheet OUT RUN [RUN ...]     writes OUT/sheet.html and OUT/key.json (do not look at the key)
python tools/janus.py rate OUT [--labels FILE]    rates of each variant, from the labels that the sheet saved
python tools/janus.py measure RUN [RUN ...]       automatic rates of each variant, and how often such a flag is right

A run's variant is its folder's name up to the first "-". The sheet is one page that works without a network: j, c or u
for "Janus or inconsistent", "consistent", "unsure", and a button that saves labels.json. tools/reproduce.py writes one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
from collections import Counter

from evaluation import METRICS, MetricUnavailable, load_metric
from evaluation.automatic_janus import accuracy_text, flags_of, rates_by_variant
from evaluation.janus import Rate
from evaluation.janus_sheet import SAVED, SHEET, read_rates, write_sheet
from evaluation.orbit_flags import check_size
from evaluation.run_folder import config_of_run, last_point_cloud
from evaluation.run_images import draw
from utils.device import resolve_device
from utils.general_utils import check_writable

CLIPS = [name for name, kind in METRICS.items() if kind.module == "clip_similarity"]


@program.refuses("janus", ValueError, OSError, MetricUnavailable)
def main(argv: list[str]) -> int:
    """Exit status: 0 done, 2 bad input."""
    parser = program.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sheet = commands.add_parser("sheet", help="write the blinded sheet")
    sheet.add_argument("out", type=Path)
    sheet.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sheet.add_argument("--view_px", type=int, default=256)
    rate = commands.add_parser("rate", help="print the rates")
    rate.add_argument("out", type=Path)
    rate.add_argument("--labels", type=Path, help="default: OUT/labels.json")
    measure = commands.add_parser("measure", help="print automatic rates; people's labels remain the reference")
    measure.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    measure.add_argument("--clip", choices=CLIPS, help="classify the views with this CLIP too")
    measure.add_argument("--weights", type=Path, help="folder of its hub repository; default: the hub")
    args = parser.parse_args(argv)
    if args.command != "rate":
        _check_names(args.runs)
    if args.command == "measure":
        return _measure(args)
    if args.command == "sheet":
        check_size("--view_px", args.view_px)
        check_writable(args.out / SHEET)
        for run in args.runs:
            draw(run, args.view_px)
        write_sheet(args.out, {run.name: run for run in args.runs})
        print(f"Open {args.out / SHEET} in a browser; then: python tools/janus.py rate {args.out}")
        return 0
    for method, found in read_rates(args.out, args.labels or args.out / SAVED).items():
        print(f"{method}: {_text(found)}")
    return 0


def _check_names(runs: list[Path]) -> None:
    """A run is known by its folder's name."""
    twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is the name of several runs; expected run folders of different names")


def _measure(args: argparse.Namespace) -> int:
    if args.weights and not args.clip:
        raise ValueError(f"--weights {args.weights} given without --clip; add --clip {CLIPS[0]}")
    for run in args.runs:
        config_of_run(run), last_point_cloud(run)  # before gigabytes are loaded
    device = resolve_device("auto")
    clip = load_metric(args.clip, device, args.weights) if args.clip else None
    flags = {}
    for run in args.runs:
        flags[run.name] = flags_of(run, device, clip)
        for name, flag in flags[run.name].items():
            verdict = {True: "several fronts", False: "one front", None: "shows nothing"}[flag.janus]
            print(f"{run.name}: {name} {flag.value:.3f}, {verdict}")
    for (variant, name), found in rates_by_variant(flags).items():
        print(f"{variant}, by {name}: {_text(found)}; {accuracy_text(name)}")
    print("An automatic rate does not replace labels; the reference is: python tools/janus.py sheet OUT RUN ...")
    return 0


def _text(rate: Rate) -> str:
    low, high = rate.interval
    counts = f"{rate.janus} of {rate.counted}, {rate.unsure} unsure"
    return f"{rate.value:.4f} ({counts}), 95 % interval {low:.3f} .. {high:.3f}"


if __name__ == "__main__":
    program.run(main)
