# SPDX-License-Identifier: Apache-2.0
"""Evenly spaced frames of one or more videos as one picture: `python tools/contact_sheet.py VIDEO... --out sheet.png`.

One row a video, --frames columns.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.image_utils import write_png
from utils.video import read_video


def contact_sheet(videos: list[np.ndarray], count: int) -> np.ndarray:
    """Videos, each uint8 [F, H, W, 3] of one size, to a picture [len(videos) H, count W, 3]."""
    rows = [np.concatenate(list(video[np.arange(count) * len(video) // count]), axis=1) for video in videos]
    return np.concatenate(rows)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=8, help="columns (default 8)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    missing = [str(path) for path in args.videos if not path.is_file()]
    if missing or args.frames < 1:
        parser.error(f"no such video: {', '.join(missing)}" if missing else "--frames must be at least 1")
    write_png(args.out, contact_sheet([read_video(path) for path in args.videos], args.frames))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
