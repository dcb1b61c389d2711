# SPDX-License-Identifier: Apache-2.0
"""A finished scene for other programs: python -m tools.export RUN --format ply spz glb html

RUN is a run folder, this program's or LucidDreamer's, or one .ply file. docs/exports.md compares the formats.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from tools.exporting import FORMATS, export
from tools.exporting.options import Options
from tools.orbits import colour_of


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    formats = "\n".join(f"  {name:<6} {format.told}" for name, format in FORMATS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"formats:\n{formats}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--format", nargs="+", required=True, metavar="FORMAT", help="one or more of the formats below")
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/export/NAME.FORMAT)")
    parser.add_argument("--iteration", type=int, help="which of the run's clouds (default: the last)")
    parser.add_argument("--pad_sh", type=int, help="ply: zeros up to this SH degree, for readers that expect 3")
    parser.add_argument("--keep_axes", action="store_true", help="ply, splat, spz, sog: leave training's z up")
    parser.add_argument("--title", default="", help="html: shown in a corner (default: the file's name)")
    parser.add_argument("--background", default="white", help="html: white, black, grey or #rrggbb (%(default)s)")
    parser.add_argument("--faces", type=int, default=Options.faces, help="glb: about so many triangles (%(default)s)")
    parser.add_argument(
        "--texture_px", type=int, default=Options.texture_px, help="glb: side of the texture (%(default)s)"
    )
    parser.add_argument(
        "--grid",
        type=int,
        default=Options.grid,
        help="glb: points along the longest side of the density's grid (%(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 written, 2 bad input; what was written before it stays."""
    args = _arguments(argv)
    try:
        options = Options(
            iteration=args.iteration,
            pad_sh=args.pad_sh,
            keep_axes=args.keep_axes,
            title=args.title,
            background=colour_of(args.background),
            faces=args.faces,
            texture_px=args.texture_px,
            grid=args.grid,
        )
        if args.out is not None and len(args.format) > 1:
            raise ValueError(f"--out {args.out} names one file and {len(args.format)} formats were given; give one.")
        for format in args.format:
            start = time.perf_counter()
            path = export(args.run, format, args.out, options)
            print(f"{path}: {path.stat().st_size:,} bytes in {time.perf_counter() - start:.1f} s")
    except (ValueError, OSError) as problem:
        print(f"export: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
