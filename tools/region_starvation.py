# SPDX-License-Identifier: Apache-2.0
"""How Eqs. (6), (7) spread their draws: python tools/region_starvation.py [--sigma .1 .5] [--min_visit_share 0 .1]

Losses are independent log-normal numbers, the same law in every region, so a fair rule would visit all regions alike.
Prints a Markdown table; one row a sigma and visit floor, mean over the seeds.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import math
from dataclasses import dataclass, replace

import torch

from arguments import CoGradParams
from cograd.history import STARVED_BELOW, RegionHistory
from cograd.regions import draw_without_replacement, next_log_probabilities
from utils.random_streams import RandomStreams

HEADER = (
    "sigma",
    "min_visit_share",
    "fewest visits",
    "most visits",
    f"regions below {STARVED_BELOW} visits",
    "drawn twice running",
    "largest P",
)
BOUNDS = {
    "sigma": (0, 100),  # beyond, exp(sigma z) leaves the range of double numbers
    "min_visit_share": (0, 1),
    "tau": (1e-6, 1e6),
    "regions": (1, 100_000),
    "draws": (1, 1_000_000),
    "seeds": (1, 1000),
}


@dataclass(frozen=True)
class Spread:
    """What one simulated run came to."""

    fewest: float
    most: float
    starved: float  # share of the regions
    repeated: float  # share of the draws that are the draw before
    largest_p: float  # over all draws


def simulate(params: CoGradParams, regions: int, draws: int, sigma: float, seed: int) -> Spread:
    """One view a draw, losses exp(sigma z) with z standard normal."""
    history, streams = RegionHistory(regions), RandomStreams(seed)
    losses = torch.exp(sigma * streams.randn(draws).double()).tolist()
    last, repeated, largest_p = -1, 0, 0.0
    for loss in losses:
        log_p = next_log_probabilities(history, params)
        largest_p = max(largest_p, math.exp(float(log_p.max())))
        region = int(draw_without_replacement(log_p, streams.rand(1).tolist()))
        repeated += region == last
        last = region
        history.add(region, loss)
    n = history.n
    return Spread(int(n.min()), int(n.max()), history.starved_share(), repeated / max(draws - 1, 1), largest_p)


def row(params: CoGradParams, regions: int, draws: int, sigma: float, seeds: int) -> list[str]:
    """A table row: means over `seeds` runs; of the starved share, its range too."""
    runs = [simulate(params, regions, draws, sigma, seed) for seed in range(seeds)]

    def mean(name: str) -> float:
        return sum(getattr(run, name) for run in runs) / seeds

    starved = [100 * run.starved for run in runs]
    return [
        f"{sigma:g}",
        f"{params.min_visit_share:g}",
        f"{mean('fewest'):.1f}",
        f"{mean('most'):.1f}",
        f"{sum(starved) / seeds:.1f} % ({min(starved):.1f}..{max(starved):.1f})",
        f"{100 * mean('repeated'):.1f} %",
        f"{mean('largest_p'):.2f}",
    ]


@program.refuses("region_starvation", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Reads the command line and prints the table."""
    paper = CoGradParams()
    count = paper.elevation_levels * paper.azimuth_levels * paper.distance_levels
    parser = program.parser(__doc__)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.8], help="spread of log loss")
    parser.add_argument("--min_visit_share", type=float, nargs="+", default=[0.0], help="visit floors to try")
    parser.add_argument("--tau", type=float, default=paper.tau)
    parser.add_argument("--regions", type=int, default=count)
    parser.add_argument("--draws", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=4, help="runs a row")
    options = parser.parse_args(argv)
    program.check_bounds(options, BOUNDS)
    print(f"{options.draws} draws, {options.regions} regions, tau {options.tau:g}, {options.seeds} seeds\n")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for share in options.min_visit_share:
        params = replace(paper, tau=options.tau, min_visit_share=share)
        for sigma in options.sigma:
            cells = row(params, options.regions, options.draws, sigma, options.seeds)
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    program.run(main)
