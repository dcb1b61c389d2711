# SPDX-License-Identifier: Apache-2.0
"""A video of a full turn around any cloud: python tools/turntable.py SCENE [SCENE ...]

A SCENE is a .ply file or a run folder, this program's or LucidDreamer's; each gets its own video, H.264.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds


from evaluation.orbit_flags import add_flags, check_flags, load, turns
from export.options import default_path
from utils.file_formats import check_out
from utils.video import VideoWriter


@program.refuses("turntable", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("scenes", type=Path, nargs="+", metavar="SCENE")
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/export/NAME.mp4, or beside the .ply)")
    add_flags(parser)
    args = parser.parse_args(argv)
    check_flags(args)
    if args.out is not None and len(args.scenes) > 1:
        raise ValueError(f"--out {args.out} names one video and {len(args.scenes)} scenes were given; give one.")
    outs = [args.out or default_path(path, "mp4", args.iteration) for path in args.scenes]
    for k, out in enumerate(outs):
        if out in outs[:k]:
            same = f"{args.scenes[outs.index(out)]} and {args.scenes[k]}"
            raise ValueError(f"the videos of {same} would both be {out}; give one scene, and --out for the other.")
    clouds = load(args.scenes, args)
    for out in outs:
        check_out(out, "mp4")
    for out, cloud in zip(outs, clouds):
        with VideoWriter(out, args.fps) as video:
            for (image,) in turns([cloud], args):
                video.add(image)
        print(video.path)
    return 0


if __name__ == "__main__":
    program.run(main)
