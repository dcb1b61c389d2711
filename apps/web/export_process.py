# SPDX-License-Identifier: Apache-2.0
"""An export in a process of its own: python apps/web/export_process.py RUN FORMAT OUT STEP UP; prints how far it is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import logging

from export import export
from export.options import Options

NAME = "export"


@program.refuses(NAME, ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 refused, with a sentence on standard error."""
    run, format, out, step, up = argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(Path(run), format, Path(out), Options(iteration=int(step), up=up))
    return 0


if __name__ == "__main__":
    program.run(main)
