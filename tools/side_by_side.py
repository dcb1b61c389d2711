# SPDX-License-Identifier: Apache-2.0
"""Several clouds in one turntable video: python tools/side_by_side.py A B [C ...] --out compared.mp4

A, B, ... are .ply files or run folders. All are seen from the same cameras, which hold every one of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse

import numpy as np

from evaluation.orbit_flags import add_flags, check_flags, load, turns
from utils.file_formats import check_out, stem_of
from utils.heat_map import text_strip
from utils.video import VideoWriter
from utils.wording import counted


def labels_of(args: argparse.Namespace) -> list[str]:
    """As given, or the names of files and folders. Raises ValueError where there are too few or too many."""
    if args.labels is None:
        return [stem_of(path) if path.is_file() else path.resolve().name for path in args.scenes]
    if len(args.labels) != len(args.scenes):
        raise ValueError(
            f"given {counted(len(args.labels), 'label')} for {counted(len(args.scenes), 'scene')}; give one for each."
        )
    return args.labels


@program.refuses("side_by_side", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("scenes", type=Path, nargs="+", metavar="SCENE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", nargs="+", help="words above the images (default: names of files and folders)")
    add_flags(parser)
    args = parser.parse_args(argv)
    check_flags(args)
    check_out(args.out, "mp4")
    strip = np.concatenate([text_strip(label, args.size_px) for label in labels_of(args)], axis=1)
    clouds = load(args.scenes, args)
    with VideoWriter(args.out, args.fps) as video:
        for row in turns(clouds, args):
            video.add(np.concatenate([strip, np.concatenate(row, axis=1)]))
    print(args.out)
    return 0


if __name__ == "__main__":
    program.run(main)
