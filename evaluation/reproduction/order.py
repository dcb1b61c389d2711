# SPDX-License-Identifier: Apache-2.0
"""What a reproduction makes: prompts, variants, seeds and where they run, checked before anything runs."""

import argparse
import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from arguments.further import refuse_set
from evaluation import PAPER_METRICS
from evaluation.experiments.budget import (
    in_setting,
    paces,
    refuse_set_by_setting,
    samples_a_step,
    samples_a_step_within,
    within,
)
from evaluation.experiments.grid import (
    OBJECTS,
    PAPER_VARIANTS,
    TABLES,
    TOY_PRIORS,
    TOY_TABLE_VARIANTS,
    TRAINED_OBJECTS,
    config_of,
    configs_of,
    runs_of,
    table_run,
)
from evaluation.experiments.runs import Pass, Result, Run, RunFailed, Sweep, local_pass, read_results, run_all, waiting
from evaluation.orbit_flags import check_size
from evaluation.prompts import PAPER_COUNT, chosen, gallery, read_prompts
from evaluation.reproduction.cost import Cost, cost
from evaluation.reproduction.measure import measure
from toy.reading import parse_prompt
from utils import program

MINIATURE_FLAGS = ("--iterations", "40", "--warmup_iter", "40", "--image_w", "32", "--image_h", "32", "--view_px", "48")
BOUNDS = {"seeds": (1, 100_000), "jobs": (1, 100_000), "count": (1, 100_000), "tflops": (1e-3, 1e6)}
MINIATURE_PROMPTS, MINIATURE_SEEDS, TOY_SEEDS = 1, 2, 4


@dataclass(frozen=True)
class Order:
    """What is asked for, checked. `gpu`: a run needs one; `at_once`: runs at a time, as `where` allows."""

    prior: str
    budget: str
    setting: str
    runs: list[Run]
    sweep: Sweep
    metrics: list[str]
    gpu: bool
    at_once: int
    where: str

    @property
    def names(self) -> list[str]:
        """Of all runs."""
        return [run.name for run in self.runs]

    def expected_cost(self, tflops: float) -> Cost:
        """Of the runs that are left."""
        made = read_results(self.sweep.out, self.names)
        seconds = [result["train_s"] for result in made if "train_s" in result]  # absent of resumed ones
        return cost(self.prior, waiting(self.runs, self.sweep), self.at_once, seconds, tflops)


def order_of(args: argparse.Namespace, extra: Sequence[str], train: Callable[[list[str]], int]) -> Order:
    """The order of a command line. ValueError for anything that cannot be run."""
    is_toy, cores = args.prior in TOY_PRIORS, os.cpu_count() or 1
    _check(args, is_toy)
    prompts = prompts_of(args)
    seeds = args.seeds or (MINIATURE_SEEDS if args.miniature else TOY_SEEDS if is_toy else 1)
    flags = [*(MINIATURE_FLAGS if args.miniature else ()), *extra]
    variants = args.variants or (TOY_TABLE_VARIANTS if is_toy else PAPER_VARIANTS)
    if args.table:
        variants = args.variants or TABLES[args.table]
    if args.table and args.prior == "toy":
        refuse_set(extra, {"GuidanceParams.ideal_uncond": "--table"})
        flags += ["--ideal_uncond", "all"]  # what laws of e_c - e_u need
    make = functools.partial(table_run, args.prior, extra=flags)
    for run in runs_of(make, 1, variant=variants[:1], prompt=prompts):
        config_of(run)  # refuses a prompt, such as "-robot", before anything runs
    runs = in_setting(runs_of(make, seeds, prompt=prompts, variant=variants), args.setting)
    refuse_set_by_setting(extra, runs, args.setting)
    configs = configs_of(runs)
    gpus = () if is_toy else gpus_here()
    at_once = args.jobs or len(gpus) or (cores if is_toy else 1)
    measured = functools.partial(measure, prior=args.prior, view_px=args.view_px)
    threads = 1 if is_toy else max(cores // at_once, 1)
    sweep = Sweep(args.out, train, measured, at_once, threads, gpus, 1, resume=not is_toy)
    budget = args.budget or ("samples" if args.table else "steps")
    (reference,) = in_setting([make(variant="full", prompt=prompts[0], seed=0)], args.setting)
    runs = part_of(_within(budget, runs, reference, sweep), args.part)
    metrics = args.metrics if args.metrics is not None else [] if is_toy else list(PAPER_METRICS)
    gpu = not is_toy and any(config.device != "cpu" for config in configs.values())
    where = "this machine, which has no GPU" if gpu and not gpus else "this machine"
    return Order(args.prior, budget, args.setting, runs, sweep, metrics, gpu, at_once, where)


def _check(args: argparse.Namespace, is_toy: bool) -> None:
    """ValueError for words that exclude each other, and for counts that are too small."""
    if args.miniature and not is_toy:
        raise ValueError("--miniature is for --prior toy; give --count and -- --iterations for a smaller run of sd")
    others = {"--ray, whose machines differ": args.ray, "--part, whose machines differ": args.part}
    others |= {"--dry_run, which runs nothing": args.dry_run}
    others["--report_only before it was timed"] = args.report_only and not (args.out / "pace").is_dir()
    other = next((name for name, given in others.items() if given), None)
    if args.budget == "minutes" and other:
        raise ValueError(f"--budget minutes times a step of every row first and cannot be combined with {other}")
    program.check_bounds(args, BOUNDS)
    check_size("--view_px", args.view_px)


def _within(budget: str, runs: list[Run], reference: Run, sweep: Sweep) -> list[Run]:
    """The runs, each with what `reference` has of network samples, of minutes, or of steps."""
    if budget == "steps":
        return runs
    config = config_of(reference)
    if budget == "minutes":
        cost_of = paces([reference, *runs], sweep)
        amount = config.optimization.iterations * cost_of[reference.facts["variant"]]
    else:
        amount = config.optimization.iterations * samples_a_step(config)
        first = {run.facts["variant"]: run for run in reversed(runs)}
        cost_of = {variant: samples_a_step_within(run, amount) for variant, run in first.items()}
    return [within(run, budget, amount, cost_of[run.facts["variant"]]) for run in runs]


def prompts_of(args: argparse.Namespace) -> list[str]:
    """The list, or the choice from it; of the toy world each must name an object."""
    if args.prior not in TOY_PRIORS:
        known = read_prompts(args.prompts) if args.prompts else gallery()
        return chosen(known, args.count or (len(known) if args.prompts else PAPER_COUNT), args.choice_seed)
    own = OBJECTS if args.prior == "toy" else TRAINED_OBJECTS
    known = read_prompts(args.prompts) if args.prompts else list(own)
    for prompt in known:
        parse_prompt(prompt)
    return chosen(known, args.count or (MINIATURE_PROMPTS if args.miniature else len(known)), args.choice_seed)


def part_of(runs: list[Run], part: str | None) -> list[Run]:
    """The part K/N of one of N machines, which may write to one folder; all without `part`."""
    if part is None:
        return runs
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--part {part!r} given; expected K/N with 1 <= K <= N, such as 3/8")
    return runs[int(found[1]) - 1 :: int(found[2])]


def gpus_here() -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES, of those that it leaves."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",") if named else map(str, range(count)))[:count]


@contextlib.contextmanager
def placed(order: Order, address: str | None, jobs: int | None) -> Iterator[tuple[Order, Pass]]:
    """The order and what runs it: this machine, or the Ray cluster at `address` while the context lasts."""
    if address is None:
        yield order, local_pass
        return
    from evaluation.experiments.cluster import connected

    with connected(address, order.gpu, tqdm.write) as cluster:
        sweep = replace(order.sweep, jobs=jobs or len(order.runs), threads=cluster.threads(), gpus=())
        at_once = min(sweep.jobs, cluster.slots(sweep.threads))
        yield replace(order, sweep=sweep, at_once=at_once, where=str(cluster)), cluster.run_pass


def make_runs(order: Order, one_pass: Pass) -> list[str]:
    """Makes what is missing, with a progress bar; a sentence for each asset that failed twice."""
    left = len(waiting(order.runs, order.sweep))
    with tqdm(total=left, desc="Assets", unit="asset", smoothing=0.1, disable=not left) as bar:

        def on_end(run: Run, result: Result | RunFailed) -> None:
            if isinstance(result, RunFailed):
                bar.write(f"{run.name}: {result}")
            else:
                bar.update()
                bar.set_postfix_str(f"{run.name}: {result['train_s']:.0f} s" if "train_s" in result else run.name)

        return run_all(order.runs, order.sweep, on_end, one_pass)
