# SPDX-License-Identifier: Apache-2.0
"""Bytes and milliseconds of the gradient bank by number of Gaussians: `python benchmarks/gradient_bank.py`.

180 regions, each with a gradient of every parameter of SH degree 0; `seen` is the share of the Gaussians that a view
moves. Plain is what the gradients would take as they are, held what the bank holds of them under its bound, and gone
how many of the 180 it had to forget. A step is one view: its gradient is stored, and fused with 1 or 5 candidates.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import torch

from arguments import CoGradParams
from cograd.fusion import Flat, flat, fuse
from cograd.gradient_bank import GradientBank
from cograd.regions import RegionGrid
from scene.densify import IndexMap
from utils.device import resolve_device
from utils.machine import machine

STEPS = 6000
COLUMNS = {"xyz": 3, "f_dc": 3, "opacity": 1, "scaling": 3, "rotation": 4}
HEADER = ("Gaussians", "seen", "plain MB", "held MB", "gone", "store ms", "fuse 1 ms", "fuse 5 ms", "densify ms")


def gradient(count: int, seen: float, generator: torch.Generator, device: torch.device) -> Flat:
    """Normal numbers for the Gaussians that are seen, zeros for the others."""
    moved = torch.rand(count, 1, generator=generator, device=device) < seen
    made = {name: torch.randn(count, n, generator=generator, device=device) * moved for name, n in COLUMNS.items()}
    return flat(made)


def median_ms(work: Callable[[int], object], repeats: int, device: torch.device) -> float:
    """Median over work(0), work(1), ... after one call that does not count."""
    times = []
    for k in range(repeats + 1):
        start = time.perf_counter()
        work(k)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def fuse_some(main: Flat, candidates: list[tuple[float, Flat]], _: int) -> None:
    fuse(main, candidates)


def row(count: int, seen: float, repeats: int, device: torch.device) -> list[str]:
    """One line of the table."""
    generator = torch.Generator(device).manual_seed(0)
    some = [gradient(count, seen, generator, device) for _ in range(6)]
    params, grid = replace(CoGradParams(), max_step_share=0.9), RegionGrid()
    bank = GradientBank(grid, params, STEPS)
    for region in range(len(grid)):
        bank.store(3000 + region, region, 300, some[region % 6])
    held, gone = bank.nbytes(), bank.evicted
    store_ms = median_ms(lambda k: bank.store(3300 + k, k % 180, 300, some[k % 6]), repeats, device)
    neighbours = [(0.5, g) for g in some[1:]]
    fuse_ms = [median_ms(partial(fuse_some, some[0], neighbours[:n]), repeats, device) for n in (1, 5)]
    kept = IndexMap.kept(torch.arange(count, device=device) % 20 > 0)  # one in twenty is pruned
    start = time.perf_counter()
    bank.remap_rows(kept)
    follow_ms = 1e3 * (time.perf_counter() - start)
    plain = len(grid) * some[0].vector.numel() * 4
    cells = [f"{count}", f"{seen:g}", f"{plain / 1e6:.0f}", f"{held / 1e6:.0f}", f"{gone}", f"{store_ms:.2f}"]
    return [*cells, *(f"{ms:.2f}" for ms in fuse_ms), f"{follow_ms:.0f}"]


@program.refuses("gradient_bank", ValueError, OSError)
def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = program.parser(__doc__)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--seen", type=float, nargs="+", default=[1.0, 0.3])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine(device)}; bound {CoGradParams().bank_limit_mb} MB\n")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for count in options.gaussians:
        for seen in options.seen:
            print("| " + " | ".join(row(count, seen, options.repeats, device)) + " |", flush=True)


if __name__ == "__main__":
    program.run(main)
