# SPDX-License-Identifier: Apache-2.0
"""What --viewer costs a step, while nobody looks and while somebody does: `python benchmarks/viewer.py`.

One run of configs/quickstart.yaml. Blocks of steps take turns: without a viewer; with the page open; with a client that
looks, which takes what is sent and draws nothing, for a browser would need a core of its own. Other flags are settings
of the run (`--init_num_pts 100000 --viewer_interval 0.2`). results/viewer.md keeps the table.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py does, before torch

import msgspec.msgpack
import torch
import viser
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from arguments import Config, OptimizationParams
from arguments.further import RUN, refuse_set
from arguments.load import load_config
from guidance.prompts import PromptEmbeddings
from trainer.priors import load_prior
from trainer.state import TrainState
from trainer.step import training_step
from utils.device import resolve_device
from utils.machine import machine
from viewer.viewers import Viewers, Watched

ROOT = Path(__file__).resolve().parents[1]
MODES = ("no viewer", "nobody looks", "somebody looks")
FOR_EVER = OptimizationParams(iterations=10_000_000)
ROUNDS, BLOCK, WARM_UP = 16, 16, 5
CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": (1.0, 0.0, 0.0, 0.0), "position": (0.0, 3.5, 0.0), "fov": 0.5, "near": 0.01,
    "far": 100.0, "image_height": 900, "image_width": 1280, "look_at": (0.0, 0.0, 0.0), "up_direction": (0.0, 0.0, 1.0),
}  # fmt: skip


class Steps:
    """The training of one run, and its viewers."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, resolve_device(config.device)
        self.prior = load_prior(config, self.device)
        self.prompts = PromptEmbeddings(self.prior, config.guidance)
        self.state = TrainState.start(config, self.device)
        self.state.begin_cograd(config, self.prior.alphas_cumprod)
        nothing = (lambda: False, lambda: False, lambda: None)
        self.watched = Watched(self.state.gaussians, self.state.maps, *nothing, print)

    def make(self, viewers: Viewers) -> float:
        """One step, its viewers served; how long it took, in ms."""
        start = time.perf_counter()
        step, _ = training_step(self.state, self.prior, self.prompts, self.config)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        viewers.serve(self.watched, self.state.iteration, step.losses.terms)
        return 1e3 * (time.perf_counter() - start)


class Looker(threading.Thread):
    """A client of the page in its own thread: says that it looks, and reads what is sent until it is closed."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        address, protocol = url.replace("http", "ws"), Subprotocol(f"viser-v{viser.__version__}")
        self._socket = connect(address, subprotocols=[protocol], max_size=None)
        self.bytes_read = 0

    def run(self) -> None:
        """Reads until the connection is closed."""
        self._socket.send(msgspec.msgpack.encode(CAMERA))
        for message in self._socket:
            self.bytes_read += len(message)

    def close(self) -> None:
        """Goes."""
        self._socket.close()
        self.join()


def block(steps: Steps, mode: str, config: Config) -> tuple[list[float], float]:
    """(ms of BLOCK steps in one of MODES, MB read in them); opening and closing are outside of them."""
    lines: list[str] = []
    with Viewers(config, lines.append) as viewers:
        looker = Looker(lines[0].split()[2]) if mode == MODES[2] else None
        if looker is not None:
            looker.start()
            time.sleep(0.2)
        steps.make(viewers)  # what is made once, such as the first image
        before = looker.bytes_read if looker else 0
        step_ms = [steps.make(viewers) for _ in range(BLOCK)]
        read_mb = (looker.bytes_read - before) / 1e6 if looker else 0.0
        if looker is not None:
            looker.close()
    return step_ms, read_mb


def compared(blocks: list[dict[str, tuple[list[float], float]]], mode: str, average: Callable[..., float]) -> str:
    """The average step of a block over that of its neighbour without a viewer: median of the rounds, and quartiles."""
    ratios = [average(each[mode][0]) / average(each[MODES[0]][0]) for each in blocks]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} .. {high:.3f})"


def served_us(config: Config, times: int = 5000) -> float:
    """Median microseconds of what a step adds while nobody looks, alone: too little to show between two steps."""
    with Viewers(config, lambda _: None) as viewers:
        run = Watched(None, None, bool, bool, lambda: None, lambda _: None)  # type: ignore[arg-type]  # nothing is read
        took = []
        for iteration in range(1, times):
            start = time.perf_counter()
            viewers.serve(run, iteration, {"guidance": 1.0, "tv_rgb": 1.0, "tv_depth": 1.0, "scale": 1.0, "total": 1.0})
            took.append(1e6 * (time.perf_counter() - start))
        return statistics.median(took)


def paused(config: Config, seconds: float = 5.0) -> float:
    """Share of a core that a run takes while the page has paused it and nobody looks any more."""
    with Viewers(config, lambda _: None) as viewers:
        page, start = viewers._page, time.monotonic()
        assert page is not None
        page._set_paused(True)
        used_s = time.process_time()
        run = Watched(None, None, bool, lambda: time.monotonic() - start > seconds, lambda: None, lambda _: None)  # type: ignore[arg-type]
        viewers.serve(run, 1, {"total": 0.0})
        return (time.process_time() - used_s) / seconds


@program.refuses("viewer", ValueError, OSError)
def main(argv: list[str]) -> None:
    """Prints the table."""
    _, more = program.parser(__doc__).parse_known_args(argv)
    refuse_set(more, {**RUN, "viewer": "the benchmark", "viewer_port": "the benchmark"})
    with tempfile.TemporaryDirectory() as folder:
        words = ["--opt", str(ROOT / "configs" / "quickstart.yaml"), "--model_path", folder, *more]
        configs = {mode: load_config([*words, *([] if mode == MODES[0] else ["--viewer_port", "0"])]) for mode in MODES}
        steps = Steps(configs[MODES[0]])
        with Viewers(configs[MODES[0]]) as none:
            for _ in range(WARM_UP):
                steps.make(none)
        blocks = [{mode: block(steps, mode, config) for mode, config in configs.items()} for _ in range(ROUNDS)]
        idle, alone_us = paused(configs[MODES[1]]), served_us(replace(configs[MODES[1]], optimization=FOR_EVER))
    points, interval = len(steps.state.gaussians.get_xyz), configs[MODES[1]].viewer_interval
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {machine(steps.device)}: {points} Gaussians, viewer_interval {interval:g} s\n"
    )
    print("| mode | step ms, median | over no viewer: medians | means | MB/s sent |\n|---|---|---|---|---|")
    for mode in MODES:
        times = [ms for each in blocks for ms in each[mode][0]]
        ratios = (compared(blocks, mode, average) for average in (statistics.median, statistics.mean))
        sent = sum(each[mode][1] for each in blocks) / (sum(times) / 1e3)
        print(f"| {mode} | {statistics.median(times):.1f} | {' | '.join(ratios)} | {sent:.2f} |")
    print(f"\nServing nobody, alone: {alone_us:.1f} us a step. Paused, nobody looking: {idle:.2%} of a core.")


if __name__ == "__main__":
    program.run(main)
