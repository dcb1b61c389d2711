# SPDX-License-Identifier: Apache-2.0
"""Fuzzes everything that reads what strangers wrote: settings, PLY files, checkpoints, the viewer's socket, prompts.

    python -m tests.fuzzing --seconds 600                     # part of make fuzz
    python -m tests.fuzzing --only ply --seed 1234 --cases 1  # one round of inputs again
    python -m tests.fuzzing --seed 0 --cases 1 --round 250    # the slice in make test

Ends with a line for docs/reliability.md for each target, and status 1 if one broke its law.
"""

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import logging
import time
import traceback

from tests.fuzzing.engine import LIMIT_MB, LIMIT_S, ROUND, Tally, Target, run_round
from tests.fuzzing.targets import TARGETS


def fuzz(target: Target, first_seed: int, seconds: float, limit: int | None, inputs: int) -> Tally:
    """Rounds first_seed, first_seed + 1, ... until the time or the number is over; failures are told once each."""
    tally, seed, end, told = Tally(), first_seed, time.monotonic() + seconds, set()
    while time.monotonic() < end and (limit is None or seed < first_seed + limit):
        error = run_round(target, seed, tally, inputs)
        if error is not None and str(error) not in told:
            told.add(str(error))
            print(f"{target.name}: round {seed}:\n{''.join(traceback.format_exception(error))}", flush=True)
        seed += 1
    print(
        f"{target.name}: {seed - first_seed} rounds from {first_seed}, {tally.tried} inputs, {tally.accepted} accepted, "
        f"{tally.refused} refused, {len(tally.failures)} kinds of failure; slowest {tally.slowest_s:.2f} s, most memory "
        f"{tally.grown_mb:.0f} MB",
        flush=True,
    )
    return tally


def main(argv: list[str]) -> int:
    """An equal share of the time for each target; status 1 if one broke its law."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1_000_000, help="the first round")
    parser.add_argument("--cases", type=int, help="at most so many rounds a target")
    parser.add_argument("--round", type=int, default=ROUND, help="inputs a round")
    parser.add_argument("--only", choices=[target.name for target in TARGETS])
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # every dropped viewer would have its line
    chosen = [target for target in TARGETS if options.only in (None, target.name)]
    print(f"limits of an input: {LIMIT_S:g} s, {LIMIT_MB} MB", flush=True)
    share_s = options.seconds / len(chosen)
    tallies = [fuzz(target, options.seed, share_s, options.cases, options.round) for target in chosen]
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    program.run(main)
