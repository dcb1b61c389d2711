# SPDX-License-Identifier: Apache-2.0
"""Evenly spaced frames of one or more videos as one picture: `python tools/contact_sheet.py VIDEO... --out sheet.png`.

One row a video, --frames columns, every frame scaled to a square.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.image_utils import write_png
from utils.video import read_video


def contact_sheet(videos: list[np.ndarray], count: int, side_px: int) -> np.ndarray:
    """Videos, uint8 [F, H, W, 3] each, to a picture [len(videos) side_px, count side_px, 3]."""
    rows = [
        [cv2.resize(frame, (side_px, side_px), interpolation=cv2.INTER_AREA) for frame in video[frames]]
        for video in videos
        for frames in [np.arange(count) * len(video) // count]
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=8, help="columns (default 8)")
    parser.add_argument("--side-px", type=int, default=128, help="side of a frame (default 128)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    missing = [str(path) for path in args.videos if not path.is_file()]
    if missing or min(args.frames, args.side_px) < 1:
        parser.error(f"no such video: {', '.join(missing)}" if missing else "--frames, --side-px: expected 1 or more")
    write_png(args.out, contact_sheet([read_video(path) for path in args.videos], args.frames, args.side_px))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
