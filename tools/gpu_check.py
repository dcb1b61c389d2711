# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show, in ten minutes: `make gpu`, or `python tools/gpu_check.py --budget 600`.

Device and build, kernels against the CPU, tests, times of rasterizer and step beside upstream's way and the peers, peak
memory beside the estimate, a run that is killed and resumed. No part stops the others; one that no longer fits into the
budget is skipped. OUT/gpu_check.md is written after every part and is ready for benchmarks/results/. --size tiny
rehearses it, on a CPU too.
Exit status: 0 when no part failed, 1 when one did, 2 for a device that is not available.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import os
import tempfile
import time
from datetime import UTC, datetime

from evaluation.gpu_check.parts import PARTS
from evaluation.gpu_check.protocol import ROOT, Session, check
from utils.device import resolve_device
from utils.machine import machine
from utils.revision import code_revision

NAMES = [part.name for part in PARTS]


@program.refuses("gpu_check", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = program.parser(__doc__)
    parser.add_argument("--budget", type=float, default=600.0, help="seconds for everything (600)")
    parser.add_argument("--out", type=Path, default=Path("output/gpu_check"), help="folder of gpu_check.md")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; cpu to rehearse")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: a rehearsal with tiny models")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="PART", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--original", help="module of a rasterizer with the original's interface, as a peer")
    parser.add_argument("--under", metavar="MODULE", help="run the parts' programs by python -m MODULE PROGRAM")
    args = parser.parse_args(argv)
    program.check_bounds(args, {"budget": (1, 86400)})
    device = resolve_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    command = " ".join(["tools/gpu_check.py", *argv])
    title = f"{datetime.now(UTC):%Y-%m-%d}, {machine(device)}, revision {code_revision()}: `{command}`"
    with tempfile.TemporaryDirectory() as folder:
        python = (sys.executable, "-m", args.under) if args.under else (sys.executable,)
        end_s = time.monotonic() + args.budget
        session = Session(python, args.device, args.size == "tiny", Path(folder), end_s, args.original, _environment())
        parts = [part for part in PARTS if args.only is None or part.name in args.only]
        is_sound = check(parts, session, args.out / "gpu_check.md", title)
    print(f"The page is {args.out / 'gpu_check.md'}")
    return 0 if is_sound else 1


def _environment() -> dict[str, str]:
    """The programs import this tree from any folder."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))}


if __name__ == "__main__":
    program.run(main)
