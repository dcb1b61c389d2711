# SPDX-License-Identifier: Apache-2.0
"""CPU time of the demo by part, against another revision: python benchmarks/demo_time.py --against 34b5cd8 --pairs 3

Both revisions run what their own `make demo` runs, in processes of their own that take turns, one thread each, with the
seeds 0, 1, ...; ffmpeg's CPU time is among the outputs'. Words after -- go to both runs (`-- --iterations 400`). With
--score both results of each pair are scored against the known truth by this tree (tools/score_toy.py). The other
revision's code is checked out into a temporary folder; it runs in this environment.
"""

import os
import sys
from pathlib import Path

# Run as a script, from anywhere; a run that is measured is of the tree in the current folder.
sys.path.insert(0, str(Path.cwd() if "--one-run" in sys.argv else Path(__file__).resolve().parents[1]))

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
RUN, SCORES = "--one-run", ("psnr", "ssim", "detail")
Times = dict[str, float]
"""By the name of the table's row."""
OWN = ("plan", "fuse", "observe")
DEMO = re.compile(r"train\.py (--opt configs/quickstart\.yaml .*) \$\(DEMO_ARGS\)")
"""The words of a Makefile's demo."""
STEP = ("plan", "render", "guidance", "backward", "fuse", "observe", "densify", "optimizer")


def one_run(words: list[str]) -> Times:
    """CPU times of a whole run: seconds, and milliseconds a step."""
    sys.path.remove(str(Path(__file__).resolve().parent))  # benchmarks/viewer.py is not viewer/
    from train import Trainer
    from train import main as train_main
    from trainer import run_log

    imported_s, whole, begun_s = time.process_time(), Trainer.train, 0.0
    run_log.time = SimpleNamespace(**{**vars(time), "perf_counter": time.process_time})

    def train(trainer: Trainer) -> Path | None:
        nonlocal begun_s
        begun_s = time.process_time()
        return whole(trainer)

    Trainer.train = train
    with redirect_stdout(sys.stderr):
        status = train_main(words)
    if status:
        raise ValueError(f"the run ended with status {status}")
    used = os.times()
    folder = Path(words[words.index("--model_path") + 1])
    lines = [line["phase_ms"] for line in run_log.read_steps(folder / "log.jsonl")]
    mean = {phase: statistics.mean(line.get(phase, 0.0) for line in lines) for phase in (*STEP, "outputs")}
    step_ms, own_ms = (sum(mean[phase] for phase in phases) for phases in (STEP, OWN))
    encoding_s, outputs_s = used.children_user + used.children_system, mean["outputs"] * len(lines) / 1e3
    trained_s, all_s = used.user + used.system - begun_s, used.user + used.system + encoding_s
    return {
        "imports of train.py, s": imported_s,
        "initial points, prior and its images, s": begun_s - imported_s,
        "a step without outputs, ms": step_ms,
        **{f"of it {phase}, ms": mean[phase] for phase in ("guidance", "render", "backward", "optimizer")},
        "CoGrad's own: plan, fuse, observe, ms": own_ms,
        "its share of a step, %": 100 * own_ms / step_ms,
        "its share of all, %": 0.1 * own_ms * len(lines) / all_s,
        "outputs with their encoding, s": outputs_s + encoding_s,
        "logs, viewers and the end, s": trained_s - outputs_s - step_ms * len(lines) / 1e3,
        "all, s": all_s,
    }


def measured(tree: Path, folder: Path, seed: int, words: Sequence[str]) -> Times:
    """Of a run of `tree` in a process of its own, whose files are left in `folder`. Raises OSError when it fails."""
    demo = DEMO.search((tree / "Makefile").read_text())
    own = [*(demo[1] if demo else "").split(), "--seed", str(seed), "--quiet", "true", "--model_path", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, str(Path(__file__).resolve()), RUN, *own, *words]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"a run of {tree} failed: {done.stderr[-500:]}")
    times: Times = json.loads(done.stdout.splitlines()[-1])
    return times


def print_table(before: list[Times], after: list[Times]) -> None:
    """Range over the runs of each row, and the ratio of the medians."""

    def spread(column: list[float]) -> str:
        low, high = (f"{x:.2f}" if x < 10 else f"{x:.1f}" for x in (min(column), max(column)))
        return low if low == high else f"{low} to {high}"

    print("| | before | after | ratio |\n|---|---|---|---|")
    for name in after[0]:
        columns = [[times[name] for times in runs] for runs in (before, after)]
        ratio = statistics.median(columns[1]) / statistics.median(columns[0])
        print(f"| {name} | {spread(columns[0])} | {spread(columns[1])} | {ratio:.2f} |", flush=True)


def print_scores(before: list[Times], after: list[Times]) -> None:
    """Means of both, and the mean difference with its standard error over the pairs."""
    print("\n| score | before | after | difference |\n|---|---|---|---|")
    for name in SCORES:
        pairs = [(a[name], b[name]) for a, b in zip(before, after, strict=True)]
        differences = [b - a for a, b in pairs]
        error = statistics.stdev(differences) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
        means = [statistics.mean(column) for column in zip(*pairs)]
        print(f"| {name} | {means[0]:.3f} | {means[1]:.3f} | {statistics.mean(differences):+.3f} +- {error:.3f} |")


@program.refuses("demo_time", ValueError, OSError, subprocess.CalledProcessError)
def main(argv: list[str]) -> int:
    """Exit status."""
    if argv[:1] == [RUN]:
        print(json.dumps(one_run(argv[1:])))
        return 0
    argv, words = program.split_at_dashes(argv)
    parser = program.parser(__doc__)
    parser.add_argument("--against", required=True, metavar="REVISION", help="what git calls the code before")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair")
    parser.add_argument("--score", action="store_true", help="score the results too")
    args = parser.parse_args(argv)
    from arguments import further
    from evaluation.known_truth import score_run
    from utils.machine import machine

    further.refuse_set(words, {**further.RUN, "seed": "--seed"})
    times: dict[str, list[Times]] = {"before": [], "after": []}
    scores: dict[str, list[Times]] = {"before": [], "after": []}
    git = shutil.which("git") or "git"
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        subprocess.run([git, "worktree", "add", "--detach", str(tree), args.against], cwd=ROOT, check=True)
        try:
            for seed in range(args.seed, args.seed + args.pairs):
                for name, code in (("before", tree), ("after", ROOT)):
                    folder = Path(temporary) / f"{name}_{seed}"
                    times[name].append(measured(code, folder, seed, words))
                    score = score_run(folder) if args.score else {}
                    scores[name].append({key: score[key] for key in SCORES if key in score})
                    took_s = times[name][-1]["all, s"]
                    print(f"seed {seed}, {name}: {took_s:.1f} s {scores[name][-1]}", file=sys.stderr, flush=True)
        finally:
            subprocess.run([git, "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    where, _, _ = machine().rpartition(", ")
    print(f"{datetime.now(UTC):%Y-%m-%d}, {where}, one thread each, {args.pairs} pairs, before: {args.against}\n")
    print_table(times["before"], times["after"])
    if args.score:
        print_scores(scores["before"], scores["after"])
    return 0


if __name__ == "__main__":
    program.run(main)
