# SPDX-License-Identifier: Apache-2.0
"""Scores a run against the toy world's ground truth from 24 views: python tools/score_toy.py RUN [--json out.json]

RUN is a run folder (config.yaml, point_cloud/iteration_K/point_cloud.ply; the last iteration is taken). The prompt in
its config.yaml says what the truth is; toy/scoring.py says what the scores mean.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import json
from collections.abc import Sequence
from typing import Any

from evaluation.known_truth import SIZE_PX, score_run
from evaluation.orbit_flags import check_size
from toy.fronts import FRONT_DEG
from utils.device import resolve_device
from utils.general_utils import check_writable, write_text_atomically


def table(scores: dict[str, Any]) -> str:
    """The scores as text for people."""
    lines = [f"{scores['prompt']}  (iteration {scores['iteration']}, 24 views of {scores['size_px']} px)"]
    lines.append(f"  aligned: yaw {scores['yaw_deg']:.2f} deg")
    for name, unit in (("psnr", " dB"), ("ssim", ""), ("iou", ""), ("detail", "")):
        lines.append(f"  {name:<12} {scores[name]:8.3f}{unit}")
    lines.append(f"  unaligned: psnr {scores['psnr_unaligned']:.3f} dB, detail {scores['detail_unaligned']:.3f}")
    if scores["clean"] is None:
        return "\n".join([*lines, "  fronts       -  (this object looks alike from front and back)"])
    verdict = "clean" if scores["clean"] else "not clean"
    lines.append(
        f"  fronts       {scores['fronts']}, front share {scores['front_share']:.2f} (right: 1, 0.25): {verdict}"
    )
    return "\n".join([*lines, _assignment(scores["assigned_deg"])])


def _assignment(assigned_deg: Sequence[float]) -> str:
    """Which side of the truth each azimuth resembles, every 15 degrees."""
    letters = "".join("F" if abs(d) <= FRONT_DEG else "B" if abs(d) >= 180 - FRONT_DEG else "s" for d in assigned_deg)
    every = len(letters) // 24
    return f"  azimuths     {letters[::every]}  (every 15 deg from 0; resembles F front, s side, B back)"


@program.refuses("score_toy", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = program.parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--size", type=int, default=SIZE_PX, help="side of the scored images in pixels")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N: where images are rendered")
    args = parser.parse_args(argv)
    check_size("--size", args.size)
    if args.json is not None:
        check_writable(args.json)
    scores = score_run(args.run, args.size, resolve_device(args.device))
    print(table(scores))
    if args.json is not None:
        write_text_atomically(args.json, json.dumps(scores, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    program.run(main)
