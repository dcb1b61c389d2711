# SPDX-License-Identifier: Apache-2.0
"""Time, memory and arithmetic of one training step by phase: `python benchmarks/step.py`.

The trainer's own step, CoGrad with fusion on, at a fixed timestep (950 has the longest inversion: 5 + 1 network calls).
--size full is Stable Diffusion 2.1 with random weights at 512 px, the default on CUDA; small: assets/toy-prior, 64 px;
tiny, to rehearse: 16 px.
--upstream-like adds the same steps made as LucidDreamer makes them: a network call for each text of the guidance, the
cache flushed after each call, the device waited for in each iteration, cudnn deterministic, none of the settings for
speed. The two take turns, step by step. `step` is timed as the trainer runs; the phases in further steps, each waiting
for the device at its ends. Arithmetic is that of the networks, counted in one more step. GB is the device's peak,
beside what trainer/memory_estimate.py expects; with --upstream-like both are left out, for two priors are loaded.
Further flags are our mode's settings (`--cuda_graphs true`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py does, before torch

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from arguments import Config
from arguments.further import RUN, refuse_set
from arguments.load import load_config
from benchmarks.phases import INSIDE, phases_apart
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from trainer import step as training_step
from trainer.memory_estimate import ModelSize, estimate
from trainer.priors import load_prior
from trainer.state import TrainState
from utils.device import resolve_device
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
SET_BY = {**RUN, "GuidanceParams.C_batch_size": "--views", "CoGradParams.t_base_range": "--t"}
SET_BY["GenerateCamParams.init_num_pts"] = "--points"
NOTED_TFLOP = {(4, False): 34.8, (4, True): 41.2}  # counted by hand for Stable Diffusion 2.1 at 512 px
START = 0.3  # of the run: fusion is on
COLUMNS = {
    "render": ("render",),
    "encode": ("encode",),
    "inversion": ("inversion",),
    "CFG": ("cfg",),
    "backward": ("image_backward", "backward"),
    "fusion": ("plan", "fuse", "observe"),
    "optimizer": ("densify", "optimizer"),
}
# Eight regions, so that every view finds neighbours to fuse with; no densification, so that all steps are alike.
STEP = {
    "CoGradParams.enabled": "true", "elevation_levels": 1, "azimuth_levels": 4, "distance_levels": 2,
    "max_t_difference": 1000, "max_step_share": 0.9, "t_jitter": 0, "densify_until_iter": 0, "as_latent_ratio": 0,
    "iterations": 6000, "sds": "false", "delta_t": 50,
}  # fmt: skip
SMALL = {"opt": ROOT / "configs" / "toy_trained.yaml", "model_key": ROOT / "assets" / "toy-prior"}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"opt": ROOT / "configs" / "prompt.yaml"},
    "small": SMALL,
    "tiny": {**SMALL, "image_w": 16, "image_h": 16, "xs_inv_steps": 1, "fp16": "false", "init_num_pts": 200},
}
SLOW = {"channels_last": "off", "fuse_qkv": "off"}  # of the prior's settings, what LucidDreamer does without


@dataclass
class Case:
    """What one line of the table is about."""

    views: int
    perpneg: bool
    t: int
    points: int | None
    base: dict[str, Any]
    more: list[str]  # words of the command line, for our mode

    def config(self, folder: Path, changes: dict[str, str]) -> Config:
        """The settings of its steps."""
        settings = {**STEP, **self.base, **changes, "C_batch_size": self.views, "perpneg": self.perpneg}
        if self.points:
            settings["init_num_pts"] = self.points
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        words += [] if changes else self.more
        return load_config([*words, "--model_path", str(folder), "--t_base_range", str(self.t), str(self.t)])


class OneByOne:
    """A prior as LucidDreamer asks it: a call for each text of the guidance, the cache flushed after each."""

    def __init__(self, prior: Prior, views: int) -> None:
        self._prior, self._views = prior, views

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The prior's prediction, `views` rows at a time."""
        made = []
        for part in zip(*(x.split(self._views) for x in (x_t, t, embeddings))):
            made.append(self._prior.predict_noise(*part))
            torch.cuda.empty_cache()
        return torch.cat(made)


@dataclass
class Steps:
    """One run of the trainer, a step at a time; remembers what each took."""

    config: Config
    prior: Any
    device: torch.device
    upstream_like: bool = False
    step_ms: list[float] = field(default_factory=list)
    phase_ms: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.upstream_like:
            self.prior = OneByOne(self.prior, self.config.guidance.C_batch_size)
        self.state = TrainState.start(self.config, self.device)
        self.state.begin_cograd(self.config, self.prior.alphas_cumprod)
        self.prompts = PromptEmbeddings(self.prior, self.config.guidance)
        self.state.iteration = int(START * self.config.optimization.iterations)

    def wait(self) -> None:
        """For the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def make(self) -> dict[str, float]:
        """One step; returns the trainer's own phase times. Raises RuntimeError when it was not finite."""
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False)
        with exact if self.upstream_like else nullcontext():
            report, _ = training_step.training_step(self.state, self.prior, self.prompts, self.config)
            if self.upstream_like:
                self.wait()
        if report.fault:
            raise RuntimeError(f"the step was skipped: {report.fault}; its time means nothing")
        return report.timer.ms

    def time_step(self) -> None:
        """One step as the trainer makes it."""
        self.wait()
        start = time.perf_counter()
        self.make()
        self.wait()
        self.step_ms.append(1e3 * (time.perf_counter() - start))

    def time_phases(self) -> None:
        """One step that waits for the device at the ends of each phase."""
        with phases_apart(self.prior, self.wait):
            self.phase_ms.append(self.make())

    def tflop(self) -> float:
        """Of one step's networks."""
        with FlopCounterMode(display=False) as counter:
            self.make()
        return counter.get_total_flops() / 1e12

    def cells(self) -> list[float]:
        """Medians in ms: the columns' phases, the rest of a step, a whole step."""
        columns = [
            statistics.median(sum(ms.get(p, 0) for p in parts) for ms in self.phase_ms) for parts in COLUMNS.values()
        ]
        totals = [sum(ms[p] for p in ms if p not in INSIDE) for ms in self.phase_ms]
        return [*columns, max(statistics.median(totals) - sum(columns), 0.0), statistics.median(self.step_ms)]


def measure(runs: list[Steps], repeats: int, warm_up: int) -> list[tuple[float, int]]:
    """Steps of all runs in turn; returns (TFLOP, most bytes in use) of each."""
    found = []
    for run in runs:
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        for _ in range(warm_up):
            run.make()
        peak = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else 0
        found.append((run.tflop(), peak))
    for _ in range(repeats):
        for run in runs:
            run.time_step()
    for _ in range(repeats):
        for run in runs:
            run.time_phases()
    return found


def lines(case: Case, priors: dict[str, Any], options: argparse.Namespace, device: torch.device) -> list[str]:
    """The table's lines of one case: ours, and as LucidDreamer would."""
    with tempfile.TemporaryDirectory() as folder:
        configs = {mode: case.config(Path(folder), SLOW if mode == "upstream-like" else {}) for mode in priors}
        runs = [Steps(configs[mode], prior, device, mode == "upstream-like") for mode, prior in priors.items()]
        found = measure(runs, options.repeats, options.warm_up)
    full, alone = options.size == "full", len(runs) == 1
    noted = f" ({NOTED_TFLOP[case.views, case.perpneg]})" if full and (case.views, case.perpneg) in NOTED_TFLOP else ""
    made, slowest = [], runs[-1].cells()[-1]
    for mode, run, (tflop, peak) in zip(priors, runs, found):
        cells, work = run.cells(), tflop * (1 if full else 1000)
        last = [f"{work:.3g}{noted}", f"{1e3 * work / cells[-1]:.3g}"]
        expected = sum(estimate(run.config, device, ModelSize.of(run.config)).values())
        last += [f"{peak / 1e9:.3g}", f"{expected / 1e9:.3g}"] if peak and alone else ["", ""]
        last += ["" if alone else f"{slowest / cells[-1]:.2f}"]
        head = [mode, str(case.views), "on" if case.perpneg else "off"]
        made.append("| " + " | ".join([*head, *(f"{ms:.1f}" for ms in cells), *last]) + " |")
    return made


def load_priors(options: argparse.Namespace, case: Case, folder: Path, device: torch.device) -> dict[str, Any]:
    """The prior of each mode."""
    made: dict[str, Any] = {}
    for mode in ("ours", "upstream-like") if options.upstream_like else ("ours",):
        config = case.config(folder, SLOW if mode == "upstream-like" else {})
        made[mode] = load_prior(config, device)
    return made


@program.refuses("step", ValueError, OSError)
def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = program.parser(__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), help="default: full on CUDA, else small")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4], help="C_batch_size")
    parser.add_argument("--perpneg", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--t", type=int, default=950, help="timestep of all views")
    parser.add_argument("--points", type=int, help="Gaussians; default: the config's")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warm_up", type=int, default=3, help="steps before the clock starts, at least 2")
    parser.add_argument("--upstream-like", action="store_true", help="the same steps as LucidDreamer makes them, too")
    parser.add_argument("--weights", type=Path, help="folder of the random weights: made there once, and kept")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options, more = parser.parse_known_args(argv)
    refuse_set(more, SET_BY)
    device = resolve_device(options.device)
    options.size = options.size or ("full" if device.type == "cuda" else "small")
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        base = dict(SIZES[options.size])
        if options.size == "full":
            from benchmarks.random_sd21 import write_random_sd21

            weights = options.weights or Path(folder) / "sd21"
            is_there = (weights / "model_index.json").is_file()  # which is written last
            base["model_key"] = weights if is_there else write_random_sd21(weights, device)
        cases = [
            Case(n, p == "on", options.t, options.points, base, more)
            for n, p in product(options.views, options.perpneg)
        ]
        priors = load_priors(options, cases[0], Path(folder) / "run", device)
        print(f"{datetime.now(UTC):%Y-%m-%d}, {machine(device)}, torch {torch.__version__}, {options.size} size\n")
        unit = "TFLOP" if options.size == "full" else "GFLOP"
        timed = [f"{name} ms" for name in (*COLUMNS, "rest", "step")]
        header = ["mode", "views", "Perp-Neg", *timed, unit, f"{unit}/s", "GB", "estimate GB", "gain"]
        print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        for case in cases:
            print("\n".join(lines(case, priors, options, device)), flush=True)


if __name__ == "__main__":
    program.run(main)
