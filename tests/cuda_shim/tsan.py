# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels under ThreadSanitizer, every CUDA thread of a block a thread to it: `make tsan`.

First all kernels in several orders, which must show no race; then without each barrier in turn, which must show one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import subprocess

import shim_build

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fno-math-errno", "-w"]
RACE = 66  # exit status of a program in which ThreadSanitizer found something
SEEDS = (0, 1, 2)


def build(target: Path) -> None:
    """Compiles driver, shim and the rasterizer's library into one program."""
    target.parent.mkdir(exist_ok=True)
    folders = [f"-I{p}" for p in (HERE, shim_build.RASTERIZER.parent)]
    shim = target.with_suffix(".o")
    subprocess.run(["g++", *FLAGS, "-DCUDA_SHIM_TSAN", "-c", str(HERE / "cuda_shim.cpp"), "-o", str(shim)], check=True)
    sources = ["-x", "c++", *map(str, (HERE / "tsan_driver.cpp", shim_build.RASTERIZER))]
    call = ["g++", *FLAGS, "-fsanitize=thread", *folders, *sources, "-x", "none", str(shim), "-o", str(target)]
    subprocess.run(call, check=True)


def run(program: Path, barrier: str = "", seed: int = 0, pairs_fit: bool = True) -> subprocess.CompletedProcess:
    """Runs the kernels without one barrier ("" = with all)."""
    call = [str(program), barrier, str(seed), str(int(pairs_fit))]
    return subprocess.run(call, capture_output=True, text=True, env={"TSAN_OPTIONS": "halt_on_error=1"})


def main(argv: list[str]) -> int:
    if not shim_build.SUPPORTED:
        print("tsan: the CUDA shim's stack switch is written for x86-64 only")
        return 1
    program = HERE / "build" / "tsan_driver"
    build(program)
    barriers: list[str] = []
    for seed in SEEDS:
        for pairs_fit in (True, False):
            result = run(program, "", seed, pairs_fit)
            if result.returncode:
                print(f"order {seed}, pairs fit: {pairs_fit}: exit status {result.returncode}\n{result.stderr}")
                return 1
            barriers = result.stdout.split()
    print(f"no race in {2 * len(SEEDS)} runs past {len(barriers)} barriers; now without each of them:")
    missed = []
    for barrier in barriers:
        result = run(program, barrier)
        noticed = result.returncode != 0
        print(f"  {barrier:22s} {'race' if result.returncode == RACE else 'noticed' if noticed else 'NOT NOTICED'}")
        missed += [] if noticed else [barrier]
    return 1 if missed else 0


if __name__ == "__main__":
    program.run(main)
