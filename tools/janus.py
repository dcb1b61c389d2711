# SPDX-License-Identifier: Apache-2.0
"""Counts the Janus problem without knowing who made what.

python tools/janus.py sheet OUT RUN [RUN ...]     writes OUT/sheet.html and OUT/key.json (do not look at the key)
python tools/janus.py rate OUT [--labels FILE]    rates of each variant, from the labels that the sheet saved

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

from evaluation.janus_sheet import SAVED, SHEET, read_rates, write_sheet
from evaluation.run_images import draw


@program.refuses("janus", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sheet = commands.add_parser("sheet", help="write the blinded sheet")
    sheet.add_argument("out", type=Path)
    sheet.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sheet.add_argument("--seed", type=int, default=0, help="of the order")
    sheet.add_argument("--view_px", type=int, default=256)
    rate = commands.add_parser("rate", help="print the rates")
    rate.add_argument("out", type=Path)
    rate.add_argument("--labels", type=Path, help="default: OUT/labels.json")
    args = parser.parse_args(argv)
    if args.command == "sheet":
        for run in args.runs:
            draw(run, args.view_px)
        write_sheet(args.out, {run.name: run for run in args.runs}, args.seed)
        print(f"Open {args.out / SHEET} in a browser; then: python tools/janus.py rate {args.out}")
        return 0
    for method, found in read_rates(args.out, args.labels or args.out / SAVED).items():
        low, high = found.interval
        counts = f"{found.janus} of {found.counted}, {found.unsure} unsure"
        print(f"{method}: {found.value:.4f} ({counts}), 95 % interval {low:.3f} .. {high:.3f}")
    return 0


if __name__ == "__main__":
    program.run(main)
