# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a whole run from its command line, and of its step by phase: `python benchmarks/quickstart.py`.

Other flags go to train.py (`--iterations 100`). The table is printed with date and machine; results/quickstart.md keeps
the ones that the README quotes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import resource
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime

from arguments.further import RUN, refuse_set
from trainer.run_log import read_steps
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OWN = ("plan", "fuse", "observe")  # CoGrad's phases; the views' own backward passes are in "backward"


@program.refuses("quickstart", ValueError, OSError, subprocess.CalledProcessError)
def main(argv: list[str]) -> None:
    """Prints the table."""
    _, more = program.parser(__doc__).parse_known_args(argv)
    refuse_set(more, RUN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "--opt", str(ROOT / "configs" / "quickstart.yaml")]
        start = time.perf_counter()
        subprocess.run([*command, "--model_path", folder, "--quiet", "true", *more], check=True)
        wall_s = time.perf_counter() - start
        lines = read_steps(Path(folder) / "log.jsonl")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s, peak_gb = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    times = f"{wall_s:.0f} s, {cpu_s:.1f} s of CPU time"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {len(lines)} steps, {times}, peak {peak_gb:.2f} GB\n")
    sums = {phase: sum(line["phase_ms"].get(phase, 0) for line in lines) for phase in lines[-1]["phase_ms"]}
    print("| phase | median ms a step | sum s | share |\n|---|---|---|---|")
    for phase, total in sums.items():
        median = statistics.median(line["phase_ms"].get(phase, 0) for line in lines)
        print(f"| {phase} | {median:.2f} | {total / 1e3:.1f} | {total / sum(sums.values()):.1%} |")
    own = sum(sums.get(phase, 0) for phase in OWN)
    if own:
        training = sum(sums.values()) - sums["outputs"]
        print(f"\nCoGrad's own: {own / training:.1%} of the steps without outputs")


if __name__ == "__main__":
    program.run(main)
