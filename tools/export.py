# SPDX-License-Identifier: Apache-2.0
"""A finished scene for other programs: python -m tools.export RUN --format ply spz glb html

RUN is a run folder, this program's or LucidDreamer's, or one .ply file. docs/exports.md compares the formats.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import logging
import time
from collections.abc import Sequence
from typing import Any

from evaluation.orbits import colour_of
from export import FORMATS, check_known, exports
from export.cloud import UP
from export.options import Options
from utils.device import resolve_device
from utils.file_formats import FILE_FORMATS, SCENES, format_of, without_effect

logger = logging.getLogger(__name__)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options that were not given are absent."""
    formats = "\n".join(f"  {name:<14} {format.description}" for name, format in FORMATS.items())
    parser = program.parser(__doc__)
    parser.epilog = f"formats:\n{formats}"

    def add(flag: str, about: str, **how: Any) -> None:
        users = ", ".join(name for name in SCENES if flag.removeprefix("--") in FILE_FORMATS[name].options)
        parser.add_argument(flag, default=argparse.SUPPRESS, help=f"{users}: {about}", **how)

    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--format", nargs="+", metavar="FORMAT", help="one or more of the formats below")
    parser.add_argument(
        "--out", type=Path, help="file to write; its suffix gives the format (default: RUN/export/NAME.FORMAT)"
    )
    parser.add_argument("--iteration", type=int, help="which of the run's clouds (default: the last)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N: where images for glb are rendered")
    add("--pad_sh", "zeros up to this SH degree, for readers that expect 3", type=int)
    add("--up", f"the axis that points up; z leaves training's axes ({Options.up})", choices=list(UP))
    add("--spz_version", f"2 for readers of 2024 ({Options.spz_version})", type=int)
    add("--title", "shown in a corner (default: the file's name)")
    add("--background", "white, black, grey or #rrggbb (white)")
    add("--faces", f"about so many triangles ({Options.faces})", type=int)
    add("--texture_px", f"side of the texture ({Options.texture_px})", type=int)
    add("--grid", f"points along the longest side of the density's grid ({Options.grid})", type=int)
    words = list(sys.argv[1:] if argv is None else argv)
    for at in range(len(words) - 1, 0, -1):
        if words[at - 1] == "--up" and len(words[at]) == 2:  # argparse would take -y for a flag
            words[at - 1 : at + 1] = [f"--up={words[at]}"]
    return parser.parse_args(words)


def _formats(args: argparse.Namespace) -> list[str]:
    """The requested ones. Raises ValueError where --format and --out name none, contradict each other or are wrong."""
    if args.format is None and args.out is None:
        raise ValueError(f"no format was given; give --format with one or more of {', '.join(FORMATS)}.")
    formats = args.format or [format_of(args.out)]
    for format in formats:
        check_known(format)
    if args.out is not None and len(formats) > 1:
        raise ValueError(f"--out {args.out} names one file and {len(formats)} formats were given; give one.")
    return formats


@program.refuses("export", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input; what was written before it stays."""
    args = _arguments(argv)
    given = {name: value for name, value in vars(args).items() if name not in ("run", "format", "out")}
    formats, given["device"] = _formats(args), resolve_device(args.device)
    if "background" in given:
        given["background"] = colour_of(given["background"])
    options = Options(**given)
    for notice in without_effect(given, formats):
        logger.warning("%s: %s", program.command_of("export"), notice)
    start = time.perf_counter()
    for path in exports(args.run, formats, args.out, options):
        print(f"{path}: {path.stat().st_size:,} bytes in {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
    return 0


if __name__ == "__main__":
    program.run(main)
