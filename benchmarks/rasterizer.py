# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of the rasterizer and of distCUDA2 by size, threads and opacity: `python benchmarks/rasterizer.py`.

The scene is that of training: a ball of radius 0.5 seen from 3.5 away with a field of view of 0.55 rad, scales the mean
distance to the neighbours. After a warm-up: on a CPU the fastest call by wall clock and, in brackets, by the CPU time
of all threads; on CUDA medians of events. Every rasterizer that can be imported is timed on the same tensors in turn:
this one, gsplat, and the original (or a fork of it) where it is installed under another name (--original NAME). MB is
what this rasterizer keeps of one view between forward and backward.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import importlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product, starmap
from typing import Any

import torch
from torch import Tensor

import diff_gaussian_rasterization
from simple_knn._C import distCUDA2
from utils.device import resolve_device
from utils.machine import machine

RADIUS, DISTANCE, FOV_RAD = 0.5, 3.5, 0.55
Render = Callable[[dict[str, Tensor]], Sequence[Tensor]]
HEADER = ("rasterizer", "Gaussians", "px", "SH", "opacity", "threads", "forward ms", "backward ms", "both", "MB")


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    count: int
    size_px: int
    sh_degree: int
    opacity: float


# ms of CPU time, forward + backward.
OPENSPLAT_MS = {
    Case(10_000, 256, 0, 0.1): 94,
    Case(10_000, 512, 0, 0.1): 425,
    Case(100_000, 256, 0, 0.1): 411,
    Case(100_000, 512, 0, 0.1): 1118,
    Case(100_000, 512, 0, 0.9): 316,
}


@dataclass
class Timing:
    """ms of the wall clock or by CUDA's events, and of CPU time (None on CUDA)."""

    wall_ms: float
    cpu_ms: float | None

    def __str__(self) -> str:
        return f"{self.wall_ms:.2f}" + ("" if self.cpu_ms is None else f" ({self.cpu_ms:.2f})")


def inputs_of(case: Case, device: torch.device) -> dict[str, Tensor]:
    """Parameters of the ball's Gaussians, leaves of the graph."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(case.count, 3, generator=g), dim=1)
    means = RADIUS * directions * torch.rand(case.count, 1, generator=g) ** (1 / 3)
    inputs = {
        "means3D": means,
        "opacities": torch.full((case.count, 1), case.opacity),
        "shs": 0.3 * torch.randn(case.count, (case.sh_degree + 1) ** 2, 3, generator=g),
        "scales": distCUDA2(means).sqrt()[:, None].repeat(1, 3),
        "rotations": torch.nn.functional.normalize(torch.randn(case.count, 4, generator=g), dim=1),
    }
    return {name: x.to(device).requires_grad_() for name, x in inputs.items()}


def camera(device: torch.device) -> tuple[Tensor, Tensor]:
    """World-to-view matrix [4,4] (not transposed) and camera position [3]."""
    view = torch.eye(4)
    view[2, 3] = DISTANCE
    return view.to(device), torch.tensor([0.0, 0.0, -DISTANCE], device=device)


def settings_of(case: Case, device: torch.device) -> tuple[Any, ...]:
    """The first twelve fields of everybody's GaussianRasterizationSettings."""
    view, position = camera(device)
    tangent, near, far = math.tan(FOV_RAD / 2), 0.01, 100.0
    proj = torch.zeros(4, 4, device=device)
    proj[0, 0] = proj[1, 1] = 1 / tangent
    proj[2, 2], proj[2, 3], proj[3, 2] = far / (far - near), -far * near / (far - near), 1.0
    white = torch.ones(3, device=device)
    matrices = (view.T.contiguous(), (proj @ view).T.contiguous())
    return (case.size_px, case.size_px, tangent, tangent, white, 1.0, *matrices, case.sh_degree, position, False, False)


def of_family(module: Any, case: Case, device: torch.device) -> tuple[Render, Any]:
    """A rasterizer with the original's interface: its call, and the object called."""
    rasterizer = module.GaussianRasterizer(module.GaussianRasterizationSettings(*settings_of(case, device)))
    screen_points = torch.zeros(case.count, 3, device=device, requires_grad=True)

    def render(inputs: dict[str, Tensor]) -> Sequence[Tensor]:
        outputs = rasterizer(means2D=screen_points, **inputs)
        return [x for x in outputs if x.is_floating_point() and x.requires_grad]

    return render, rasterizer


def of_gsplat(module: Any, case: Case, device: torch.device) -> Render:
    """gsplat's rasterization with colour and depth."""
    view, _ = camera(device)
    focal = case.size_px / (2 * math.tan(FOV_RAD / 2))
    half = case.size_px / 2
    k = torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]], device=device)[None]

    def render(inputs: dict[str, Tensor]) -> Sequence[Tensor]:
        shape = (inputs["means3D"], inputs["rotations"], inputs["scales"], inputs["opacities"][:, 0], inputs["shs"])
        options = {"sh_degree": case.sh_degree, "render_mode": "RGB+D", "packed": False}
        image, alpha, _ = module.rasterization(*shape, view[None], k, case.size_px, case.size_px, **options)
        return [image, alpha]

    return render


class Clock:
    """Marks moments: as (wall clock, CPU time) on a CPU, as events on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        """Now."""
        if self.device.type != "cuda":
            return 1e3 * time.perf_counter(), 1e3 * time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, marks: list[tuple[Any, Any]]) -> Timing:
        """Of spans (begin, end): CUDA's median; on a CPU the fastest, which other programs disturbed least."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return Timing(statistics.median(begin.elapsed_time(end) for begin, end in marks), None)
        return Timing(*(min(end[k] - begin[k] for begin, end in marks) for k in range(2)))


def measure(render: Render, inputs: dict[str, Tensor], repeats: int, clock: Clock) -> tuple[Timing, Timing, Timing]:
    """Forward, backward, and both together, after a warm-up of two calls."""
    leaves = list(inputs.values())
    weights = [torch.rand_like(x) for x in render(inputs)]
    marks = []
    for _ in range(repeats + 2):
        begin = clock.mark()
        images = list(render(inputs))
        middle = clock.mark()
        torch.autograd.grad(images, leaves, weights, allow_unused=True)
        marks.append((begin, middle, clock.mark()))
    spans = [[(m[i], m[k]) for m in marks[2:]] for i, k in ((0, 1), (1, 2), (0, 2))]
    forward, backward, both = map(clock.between, spans)
    return forward, backward, both


def peers(original: str | None) -> dict[str, Any]:
    """Modules that can be imported, by name; a fork that cannot run here shows an error in the table."""
    found = {"ours": diff_gaussian_rasterization}
    for name in filter(None, ("gsplat", original)):
        try:
            found[name] = importlib.import_module(name)
        except (ImportError, OSError) as error:
            print(f"{name} is not timed: {error}\n")
    return found


def lines(case: Case, modules: dict[str, Any], repeats: int, device: torch.device) -> tuple[list[str], Timing | None]:
    """The table's lines of one case, a line for each rasterizer; and our time forward and backward."""
    inputs, threads = inputs_of(case, device), torch.get_num_threads() if device.type == "cpu" else "-"
    repeats = max(5, min(repeats, 3_000_000 // case.count))
    made, ours = [], None
    for name, module in modules.items():
        cells = [name, f"{case.count}", f"{case.size_px}", f"{case.sh_degree}", f"{case.opacity:g}", f"{threads}"]
        rasterizer = None
        try:
            if name == "gsplat":
                render = of_gsplat(module, case, device)
            else:
                render, rasterizer = of_family(module, case, device)
            forward, backward, both = measure(render, inputs, repeats, Clock(device))
        except Exception as error:  # a peer without a backend for this device
            made.append("| " + " | ".join(cells) + f" | {type(error).__name__} | | | |")
            continue
        kept = "" if name != "ours" else f"{rasterizer.counts['state_bytes'] / 1e6:.1f}"
        made.append("| " + " | ".join([*cells, *map(str, (forward, backward, both)), kept]) + " |")
        ours = both if name == "ours" else ours
    return made, ours


def print_anchors(ours: dict[Case, Timing]) -> None:
    """OpenSplat's CPU time beside ours with the first number of threads asked for."""
    print("\nForward + backward in ms of CPU time. OpenSplat's CPU rasterizer has one thread and draws colour alone;")
    print("it was measured once, on a machine of two cores. Ours draws depth and transmittance too.\n")
    print("| Gaussians | px | opacity | OpenSplat | ours | times |\n|---|---|---|---|---|---|")
    for case, timing in ours.items():
        theirs, cpu_ms = OPENSPLAT_MS[case], timing.cpu_ms
        print(f"| {case.count} | {case.size_px} | {case.opacity:g} | {theirs} | {cpu_ms:.1f} | {theirs / cpu_ms:.1f} |")


def print_neighbours(counts: Sequence[int], threads: Sequence[int], device: torch.device) -> None:
    """Times of distCUDA2 for points of the ball."""
    clock = Clock(device)
    print("\n| distCUDA2: points | threads | ms |\n|---|---|---|")
    for count in counts:
        points = inputs_of(Case(count, 1, 0, 0.1), device)["means3D"].detach()
        for n in threads:
            torch.set_num_threads(n)
            marks = [(clock.mark(), distCUDA2(points), clock.mark()) for _ in range(6)]
            timing = clock.between([(begin, end) for begin, _, end in marks[1:]])
            print(f"| {count} | {n if device.type == 'cpu' else '-'} | {timing} |", flush=True)


def peak_memory(device: torch.device) -> str:
    """The process's peak, or the device's."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e6:.0f} MB on the device"
    import resource

    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB resident"


@program.refuses("rasterizer", ValueError, OSError)
def main(argv: list[str]) -> None:
    """Prints the tables."""
    parser = program.parser(__doc__)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--px", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--sh", type=int, nargs="+", default=[0, 3])
    parser.add_argument("--opacity", type=float, nargs="+", default=[0.1, 0.9])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--original", help="module name of a rasterizer with the original's interface")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    device = resolve_device(options.device)
    threads = options.threads if device.type == "cpu" else options.threads[:1]
    report = diff_gaussian_rasterization.backend()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine(device)}, {report['cpu']}, torch {torch.__version__}\n")
    modules = peers(options.original)
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    anchors: dict[Case, Timing] = {}
    for case in starmap(Case, product(options.gaussians, options.px, options.sh, options.opacity)):
        for n in threads:
            torch.set_num_threads(n)
            made, ours = lines(case, modules, options.repeats, device)
            print("\n".join(made), flush=True)
            if ours is not None and ours.cpu_ms is not None and case in OPENSPLAT_MS:
                anchors.setdefault(case, ours)
    if anchors:
        print_anchors(anchors)
    print_neighbours([n for n in options.gaussians if n >= 10_000], threads, device)
    print(f"\nPeak memory of the process: {peak_memory(device)}")


if __name__ == "__main__":
    program.run(main)
