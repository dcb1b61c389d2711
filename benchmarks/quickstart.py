# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a whole run from its command line, and of its step by phase: `python benchmarks/quickstart.py`.

Other flags go to train.py (`--iterations 100`). The table is printed with date and machine; results/quickstart.md keeps
the ones that the README quotes.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cpu_name() -> str:
    """The processor's name and the number of cores this process may use."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def main(flags: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), "--opt", str(ROOT / "configs" / "quickstart.yaml")]
        start = time.perf_counter()
        subprocess.run([*command, "--model_path", folder, "--quiet", "true", *flags], check=True)
        wall_s = time.perf_counter() - start
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}: {len(lines)} steps, {wall_s:.0f} s, peak {peak_gb:.2f} GB\n")
    print("| phase | median ms a step | sum s |\n|---|---|---|")
    for phase in lines[0]["phase_ms"]:
        ms = [line["phase_ms"][phase] for line in lines]
        print(f"| {phase} | {statistics.median(ms):.2f} | {sum(ms) / 1e3:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
