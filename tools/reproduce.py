# SPDX-License-Identifier: Apache-2.0
"""The paper's tables 1 and 2, as far as this code can run them: python tools/reproduce.py [--prior toy] [--out FOLDER]

Every method, prompt and seed is one run of train.py, which leaves one JSON file in FOLDER; called again, only what is
missing is done. At first the cost is told. At last FOLDER holds report.html (everything, one file), table.csv,
assets.csv, results.json, and janus/sheet.html for those who count faces.
With --ray the runs are tasks of a Ray cluster, in one machine's place.
What follows `--` goes to train.py in every run: ... --out FOLDER -- --iterations 3000
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from tqdm import tqdm

from arguments.load import load_config
from evaluation import METRICS
from evaluation.janus import Rate
from evaluation.prompts import PAPER_COUNT, chosen, gallery, read_prompts
from evaluation.reproduction import plan
from evaluation.reproduction.measure import add_metrics, measure
from evaluation.reproduction.plan import METHODS, PAPER_METHODS, TOY_METHODS, Asset, Cost, assets_of, cost
from evaluation.reproduction.report import report
from evaluation.reproduction.tables import assets_csv, summary, summary_csv
from evaluation.run_folder import record_of_run
from evaluation.sweep.runs import ROOT, Job, Pass, Result, RunFailed, Sweep, local_pass, read_results, run_all, waiting
from tools.janus import SAVED, read_rates, write_sheet
from toy.reading import parse_prompt
from utils.device import resolve_device

ASK_FROM_HOURS = 2.0


def parser() -> argparse.ArgumentParser:
    """All flags of this tool."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, help="folder of the results; go on in it; default: output/tables, toy_tables")
    made.add_argument("--prior", choices=["sd", "toy"], default="sd", help="toy: the embedded world, on a laptop")
    made.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: the paper's, toy: and ism")
    made.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a prompt a line, or a JSON list; default: the gallery's"
    )
    made.add_argument("--count", type=int, help="so many prompts of the list, by the rule of evaluation/prompts.py")
    made.add_argument("--choice_seed", type=int, default=0, help="of that rule")
    made.add_argument("--seeds", type=int, help="seeds 0, 1, ... of each cell; default: 1, toy: 4")
    made.add_argument("--metrics", nargs="*", choices=list(METRICS), help="default: all, toy: none")
    made.add_argument("--weights", type=Path, help="folder of the metrics' hub repositories; default: the hub")
    made.add_argument("--jobs", type=int, help="runs at a time; default: the GPUs, without one the cores")
    made.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="on the Ray cluster that this machine is part of, or on HOST:PORT or ray://HOST:PORT",
    )
    made.add_argument(
        "--tflops", type=float, default=100.0, help="half precision that a GPU sustains; for the estimate"
    )
    made.add_argument("--view_px", type=int, default=192, help="side of the report's pictures")
    made.add_argument("--miniature", action="store_true", help="toy: one prompt, two seeds, 40 steps; two minutes")
    made.add_argument("--keep_all", action="store_true", help="keep the runs' logs too")
    made.add_argument("--yes", action="store_true", help=f"start even if it takes more than {ASK_FROM_HOURS:g} hours")
    made.add_argument("--dry_run", action="store_true", help="tell what would be made and what it costs")
    made.add_argument("--part", metavar="K/N", help="only every N-th asset, from the K-th on: one of N machines' share")
    made.add_argument("--report_only", action="store_true", help="make nothing; tables and report of what is there")
    return made


@dataclass(frozen=True)
class Order:
    """What is asked for, checked. `gpu`: a run wants one; `at_once`: runs at a time, as `where` allows."""

    prior: str
    assets: list[Asset]
    jobs: list[Job]
    sweep: Sweep
    metrics: list[str]
    gpu: bool
    at_once: int
    where: str


def order_of(args: argparse.Namespace, extra: Sequence[str]) -> Order:
    """ValueError for anything that cannot be run, before anything runs."""
    if args.miniature and args.prior != "toy":
        raise ValueError("--miniature is for --prior toy; give --count and -- --iterations for a smaller run of sd")
    counts = {"--seeds": args.seeds, "--jobs": args.jobs, "--tflops": args.tflops, "--view_px": args.view_px - 15}
    wrong = [name for name, value in counts.items() if value is not None and value <= 0]
    if wrong:
        raise ValueError(f"{wrong[0]} is too small; expected seeds and jobs of 1 or more, --view_px of 16 or more")
    prompts = prompts_of(args)
    seeds = args.seeds or (plan.MINIATURE_SEEDS if args.miniature else 4 if args.prior == "toy" else 1)
    flags = [*(plan.MINIATURE_FLAGS if args.miniature else ()), *extra]
    methods = args.methods or (TOY_METHODS if args.prior == "toy" else PAPER_METHODS)
    assets = part_of(assets_of(args.prior, methods, prompts, seeds), args.part)
    jobs = [asset.job(flags) for asset in assets]
    configs = [
        load_config(["--opt", str(ROOT / job.flags[1]), *job.flags[2:]])
        for job in {asset.method: job for asset, job in zip(assets, jobs)}.values()
    ]
    gpus = gpus_here() if args.prior == "sd" else ()
    at_once = args.jobs or len(gpus) or (os.cpu_count() or 1 if args.prior == "toy" else 1)
    measured = functools.partial(measure, prior=args.prior, view_px=args.view_px)
    threads = 1 if args.prior == "toy" else max((os.cpu_count() or 1) // at_once, 1)
    sweep = Sweep(args.out, measured, at_once, threads, gpus, 1, resume=args.prior == "sd", keep_all=args.keep_all)
    metrics = args.metrics if args.metrics is not None else [] if args.prior == "toy" else list(METRICS)
    gpu = args.prior == "sd" and any(config.device != "cpu" for config in configs)
    where = "this machine, which has no GPU" if gpu and not gpus else "this machine"
    return Order(args.prior, assets, jobs, sweep, metrics, gpu, at_once, where)


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
    from evaluation.sweep.cluster import connected

    with connected(address, order.gpu, tqdm.write) as cluster:
        sweep = replace(order.sweep, jobs=jobs or len(order.jobs), threads=cluster.threads(), gpus=())
        at_once = min(sweep.jobs, cluster.slots(sweep.threads))
        yield replace(order, sweep=sweep, at_once=at_once, where=str(cluster)), cluster.run_pass


def part_of(assets: list[Asset], part: str | None) -> list[Asset]:
    """The share K/N of one of N machines, which may write to one folder; all without `part`."""
    if part is None:
        return assets
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--part {part!r} given; expected K/N with 1 <= K <= N, such as 3/8")
    return assets[int(found[1]) - 1 :: int(found[2])]


def prompts_of(args: argparse.Namespace) -> list[str]:
    """The list, or the choice from it; of the toy world each must name an object."""
    if args.prior == "toy":
        known = read_prompts(args.prompts) if args.prompts else plan.TOY_PROMPTS
        for prompt in known:
            parse_prompt(prompt)
        count = args.count or (plan.MINIATURE_PROMPTS if args.miniature else len(known))
    else:
        known = read_prompts(args.prompts) if args.prompts else gallery()
        count = args.count or (len(known) if args.prompts else PAPER_COUNT)
    return chosen(known, count, args.choice_seed)


def make(order: Order, one_pass: Pass) -> list[str]:
    """Runs what is missing, with a progress bar; a sentence for each asset that failed twice."""
    left = waiting(order.jobs, order.sweep)
    if not left:
        return []
    with tqdm(total=len(left), desc="Assets", unit="asset", smoothing=0.1) as bar:

        def told(job: Job, result: Result | RunFailed) -> None:
            if isinstance(result, RunFailed):
                bar.write(f"{job.name}: {result}")
            else:
                bar.update()
                bar.set_postfix_str(f"{job.name}: {result['train_s']:.0f} s")

        return run_all(order.jobs, order.sweep, told, one_pass)


def write_all(order: Order, failures: Sequence[str], missing: dict[str, str]) -> Path:
    """Tables, sheet and report of what is there; the report's path. ValueError where nothing is."""
    out, names = order.sweep.out, [asset.name for asset in order.assets]
    results = read_results(out, names)
    if not results:
        raise ValueError(f"{out} holds no finished asset of this order; let one finish first")
    write_sheet(out / "janus", {r["name"]: order.sweep.folder(r["name"]) for r in results}, 0)
    rates = janus_rates(out / "janus")
    rows = summary(results, order.prior, rates)
    provenance = provenance_of(order, results)
    everything = {
        "provenance": provenance,
        "missing": missing,
        "failures": list(failures),
        "rows": rows,
        "assets": results,
    }
    (out / "results.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    (out / "table.csv").write_text(summary_csv(rows), encoding="utf-8")
    (out / "assets.csv").write_text(assets_csv(results, order.prior), encoding="utf-8")
    text = report(order.sweep, order.prior, rows, results, missing, failures, rates, provenance)
    (out / "report.html").write_text(text, encoding="utf-8")
    return out / "report.html"


def janus_rates(folder: Path) -> dict[str, Rate]:
    """Of the labels that were saved there; none before."""
    return read_rates(folder, folder / SAVED) if (folder / SAVED).is_file() else {}


def provenance_of(order: Order, results: Sequence[Result]) -> dict[str, Any]:
    """What made the numbers; of code, machines and versions what the runs themselves have written down."""
    records = list(filter(None, (record_of_run(order.sweep.folder(result["name"])) for result in results)))
    return {
        "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": ", ".join(sorted({_short(record["revision"]) for record in records})),
        "machine": "; ".join(sorted({f"{record['device']}, {record['platform']}" for record in records})),
        "prior": order.prior,
        "prompts": list(dict.fromkeys(asset.prompt for asset in order.assets)),
        "seeds": sorted({asset.seed for asset in order.assets}),
        "metrics": order.metrics,
        "flags": {asset.method: " ".join(job.flags) for asset, job in reversed([*zip(order.assets, order.jobs)])},
        "versions": _versions(records),
    }


def _short(revision: str) -> str:
    """The first twelve digits, and whether the tree had changes."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]*", r"\1", revision)


def _versions(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Package -> version; several where the runs had several."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in {"python": record["python"], **record["versions"]}.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def not_asked(order: Order) -> dict[str, str]:
    """Metrics that nobody asked for, with what they would cost."""
    left = [name for name in METRICS if name not in order.metrics]
    return {name: f"not asked for; --metrics {name} fetches {METRICS[name].download_gb:g} GB" for name in left}


def told_cost(order: Order, tflops: float) -> Cost:
    """Of what is left to be made; printed."""
    left = waiting(order.jobs, order.sweep)
    done = read_results(order.sweep.out, [asset.name for asset in order.assets])
    expected = cost(order.prior, len(left), order.at_once, [r["train_s"] for r in done], tflops)
    print(f"{len(order.assets)} assets, {len(done)} of them made before. {expected}, on {order.where}.", flush=True)
    return expected


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 everything is there, 1 some assets failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    args, extra = parser().parse_args(words[:split]), words[split + 1 :]
    args.out = args.out or Path("output", "toy_tables" if args.prior == "toy" else "tables")
    failures: list[str] = []
    try:
        order = order_of(args, extra)
        if not args.report_only:
            with placed(order, args.ray, args.jobs) as (order, one_pass):
                expected = told_cost(order, args.tflops)
                if args.dry_run:
                    return 0
                if expected.hours > ASK_FROM_HOURS and not args.yes:
                    raise ValueError(
                        f"that is more than {ASK_FROM_HOURS:g} hours; add --yes to start, or --count for less"
                    )
                args.out.mkdir(parents=True, exist_ok=True)
                failures = make(order, one_pass)
        if args.part and not args.report_only:
            print("This part is done; --report_only, without --part, makes tables and report once all are.")
            return 1 if failures else 0
        missing = not_asked(order)
        missing |= add_metrics(order.sweep, order.assets, order.metrics, resolve_device("auto"), args.weights, print)
        path = write_all(order, failures, missing)
    except ValueError as problem:
        print(f"reproduce: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reproduce: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    print("\n".join(f"reproduce: failed: {failure}" for failure in failures), end="\n" if failures else "")
    print(f"The report is {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    program.run(main)
