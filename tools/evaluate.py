# SPDX-License-Identifier: Apache-2.0
"""The paper's learned metrics of finished runs: python tools/evaluate.py RUN [RUN ...] [--metrics clip_b32 vqascore]

A run folder's prompt and last cloud are taken. docs/evaluation.md says what each number is and where weights come from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import json
from collections.abc import Sequence

import torch

from evaluation import METRICS, PAPER_METRICS, MetricUnavailable
from evaluation.run_folder import config_of_run, gaussians_of_run, score_runs
from utils.device import resolve_device
from utils.general_utils import check_writable, write_text_atomically

Scores = dict[str, dict[str, float] | str]
"""Metric -> its mean and standard deviation over the views, or why it is missing."""


def evaluate(
    runs: Sequence[Path], names: Sequence[str], device: torch.device, folder: Path | None
) -> dict[str, Scores]:
    """Run -> scores. One metric is in memory at a time."""
    found: dict[str, Scores] = {str(run): {} for run in runs}
    for name in names:
        try:
            for scores, score in zip(found.values(), score_runs(name, runs, device, folder)):
                scores[name] = score
        except MetricUnavailable as reason:
            for scores in found.values():
                scores[name] = f"missing: {reason}"
    return found


def table(scores: Scores) -> str:
    """One run's scores for people."""
    lines = []
    for name, score in scores.items():
        kind = METRICS[name]
        text = (
            score if isinstance(score, str) else f"{score['mean']:8.4f}, std {score['std']:.4f} over {kind.views} views"
        )
        lines.append(f"  {kind.title:<12} {text}")
    return "\n".join(lines)


@program.refuses("evaluate", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 all were measured, 1 some are missing, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--metrics", nargs="+", choices=list(METRICS), default=PAPER_METRICS)
    parser.add_argument("--weights", type=Path, help="folder of the metrics' hub repositories; default: the hub")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    args = parser.parse_args(argv)
    if args.json is not None:
        check_writable(args.json)
    for run in args.runs:
        gaussians_of_run(run, config_of_run(run))  # before gigabytes are loaded
    found = evaluate(args.runs, args.metrics, resolve_device(args.device), args.weights)
    print("\n".join(f"{run}\n{table(scores)}" for run, scores in found.items()))
    if args.json is not None:
        write_text_atomically(args.json, json.dumps(found, indent=2) + "\n")
    return 1 if any(isinstance(score, str) for scores in found.values() for score in scores.values()) else 0


if __name__ == "__main__":
    program.run(main)
