# SPDX-License-Identifier: Apache-2.0
"""Scores a run against the toy world's ground truth from 24 views: python tools/score_toy.py RUN [--json out.json]

RUN is a run folder (config.yaml, point_cloud/iteration_K/point_cloud.ply; the last iteration is taken). The prompt in
its config.yaml says what the truth is; guidance/toy/scoring.py says what the scores mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from evaluation.known_truth import SIZE_PX, score_run
from guidance.toy.scoring import AZIMUTHS_DEG, JANUS_THRESHOLD


def table(scores: dict[str, Any]) -> str:
    """The scores as text for people."""
    lines = [f"{scores['prompt']}  (iteration {scores['iteration']}, 24 views of {scores['size_px']} px)"]
    for name, unit in (("psnr", " dB"), ("ssim", ""), ("iou", ""), ("detail", "")):
        lines.append(f"  {name:<10} {scores[name]:8.3f}{unit}")
    turned = f"turned by {scores['turn_deg']} deg: psnr {scores['psnr_turned']:.3f} dB"
    lines.append(f"  {turned}, detail {scores['detail_turned']:.3f}")
    if scores["face"] is None:
        return "\n".join([*lines, "  face       -  (this object looks alike from front and back)"])
    lines.append(f"  {'face':<10} {scores['face']:8.3f}, margin {scores['face_margin']:.3f}")
    lines.append("  azimuth    " + " ".join(f"{azimuth:6d}" for azimuth in AZIMUTHS_DEG))
    lines.append("  front face " + " ".join(f"{value:6.2f}" for value in scores["face_by_azimuth"]))
    lines.append(f"  janus      {scores['janus_count']} of 8 azimuths show the front (>= {JANUS_THRESHOLD}; right: 1)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--size", type=int, default=SIZE_PX, help="side of the scored pictures in pixels")
    args = parser.parse_args(argv)
    try:
        scores = score_run(args.run, args.size)
    except ValueError as problem:
        print(f"score_toy: {problem}", file=sys.stderr)
        return 2
    print(table(scores))
    if args.json is not None:
        args.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
