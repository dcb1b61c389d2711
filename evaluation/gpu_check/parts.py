# SPDX-License-Identifier: Apache-2.0
"""The parts of the GPU check, in the order in which they are tried: what everything else rests on comes first."""

import json
import re
import shutil
import sys
from typing import Any

from evaluation.gpu_check.goals import MEAN_T, STEPS, judged
from evaluation.gpu_check.protocol import ROOT, Finding, Part, PartFailed, Session
from evaluation.gpu_check.resumed_run import continues_as_before, random_weights

EXTENSIONS = {"diff-gaussian-rasterization": "diff_gaussian_rasterization", "simple-knn": "simple_knn"}
STEP_TINY = ("--size", "tiny", "--views", "1", "--perpneg", "off", "--repeats", "1", "--warm_up", "2")
STEP_FULL = ("--size", "full", "--views", "4", "--perpneg", "off", "--repeats", "3", "--warm_up", "2")
ONE_ROW = ("--sh", "0", "--opacity", "0.1", "--threads", "1")  # of rasterizers, for a number of Gaussians
MOST_OVER_ESTIMATE = 1.0  # of the measured peak over the estimate: above it a run that was let through does not fit


def device(session: Session) -> Finding:
    """GPU, driver, torch and the extensions. Fails where images of the GPU would be rendered on the CPU."""
    found = _facts(session)
    renders = found["rasterizer"]
    details = [f"{name}: {value}" for name, value in found.items()]
    if session.device != "cpu" and renders["backend"] != "cuda":
        raise PartFailed(f"the rasterizer has no CUDA kernels here: {renders['why_not_cuda']}", details)
    where = found.get("gpu", "CPU")
    return Finding(f"{where}, driver {found.get('driver', '-')}, torch {found['torch']}, CUDA {found['cuda']}", details)


def _facts(session: Session) -> dict[str, Any]:
    return json.loads(session.output_of(["-m", "evaluation.gpu_check.device", session.device], 60).splitlines()[-1])


def build(session: Session) -> Finding | str:
    """Both extensions, compiled again beside the installed ones; the rasterizer with CUDA where this is about a GPU."""
    if session.device != "cpu" and not session.is_tiny and shutil.which("nvcc") is None:
        return "no nvcc is on the PATH"
    made = []
    for project, package in EXTENSIONS.items():
        if session.is_tiny and project != "simple-knn":
            continue
        copy, target = session.folder / "build" / project, session.folder / "site"
        shutil.copytree(ROOT / "submodules" / project, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
        cuda = "0" if session.is_tiny or project == "simple-knn" else "1"
        words = ["setup.py", "-q", "build_ext", "--build-lib", str(target), "--build-temp", str(copy / "temp")]
        session.output_of(words, 240, copy, BUILD_CUDA=cuda)
        libraries = sorted(path.name for path in (target / package).glob("*.so"))
        if ("_cuda_kernels.so" in libraries) != (cuda == "1"):
            raise PartFailed(f"{project} was built as {libraries}")
        made.append(f"{package}: {', '.join(libraries)}")
    return Finding("; ".join(made))


def kernels(session: Session) -> Finding:
    """The kernels' tests on the recorded cases: bits repeat, overflow, side streams, no waiting."""
    chosen = ["-k", "tiny_random or neighbour_distances and 50"] if session.is_tiny else []
    return _tests(session, "tests/submodules/test_cuda_tensors.py", *chosen, limit_s=120)


def sanitizer(session: Session) -> Finding | str:
    """compute-sanitizer on the smallest recorded case."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or session.device == "cpu":
        return "compute-sanitizer is not installed" if tool is None else "there is no GPU"
    case = ["-k", "tiny_random and False", "tests/submodules/test_cuda_tensors.py"]
    outside = Session((tool, "--error-exitcode", "9", sys.executable), *_rest_of(session))
    outside.output_of(["-m", "pytest", "-q", "-x", "-n", "0", *case], 90)
    return Finding("memcheck found nothing")


def _rest_of(session: Session) -> tuple:
    return session.device, session.is_tiny, session.folder, session.deadline_s


def gpu_tests(session: Session) -> Finding:
    """Every test that needs a GPU, but those of the kernels."""
    where = ["tests/guidance/test_no_waiting.py"] if session.is_tiny else ["tests/guidance", "tests/trainer"]
    return _tests(session, *where, "-m", "gpu", limit_s=180)


def _tests(session: Session, *words: str, limit_s: float) -> Finding:
    text = session.output_of(["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *words], limit_s)
    last = next(line for line in reversed(text.splitlines()) if re.search(r"\d+ (passed|skipped|deselected)", line))
    if session.device != "cpu" and "passed" not in last:
        raise PartFailed(f"no test was run: {last.strip('= ')}")
    return Finding(last.strip("= "))


def agreement(session: Session) -> Finding:
    """Images and gradients of a training scene against the CPU's; those of gsplat and the original beside them."""
    words = ["--gaussians", "1000", "--px", "64"] if session.is_tiny else ["--gaussians", "100000", "--px", "512"]
    table = _table(session, "benchmarks/agreement.py", *words, *_original(session), limit_s=90)
    return Finding(f"{len(table) - 2} rasterizers agree with the CPU's", table)


def rasterizer(session: Session) -> Finding:
    """Forward and backward by the number of Gaussians, and of the peers in turn."""
    counts = ["500"] if session.is_tiny else ["10000", "100000", "500000"]
    size = ["--px", "64" if session.is_tiny else "512", *ONE_ROW]
    size += ["--repeats", "1"] if session.is_tiny else []
    words = ["--gaussians", *counts, *size, *_original(session)]
    table = _table(session, "benchmarks/rasterizer.py", *words, limit_s=90)
    ours = [row for row in _rows(table) if row["rasterizer"] == "ours"]
    return Finding(", ".join(f"{row['Gaussians']}: {row['both']} ms" for row in ours), table)


def _original(session: Session) -> list[str]:
    return ["--original", session.original] if session.original else []


def steps(name: str, *words: str) -> Part:
    """The trainer's step at full size with random weights, by phase, with peak memory beside the estimate."""

    def run(session: Session) -> Finding | str:
        if "--cuda_graphs" in words and session.is_tiny:
            return "not part of a rehearsal"
        size = STEP_TINY if session.is_tiny else (*STEP_FULL, "--weights", str(random_weights(session)))
        table = _table(session, "benchmarks/step.py", *size, *words, limit_s=240)
        ours = _rows(table)[0]
        summary = f"{ours['step ms']} ms a step"
        if not session.is_tiny:
            summary += f", {STEPS} of them take {STEPS * float(ours['step ms']) / 6e4:.0f} minutes"
        if ours["gain"]:
            summary += f", {ours['gain']} times as fast as made in upstream's way"
        if ours["GB"] and ours["estimate GB"]:
            ratio = float(ours["GB"]) / float(ours["estimate GB"])
            summary += f"; peak {ours['GB']} GB, {ratio:.2f} of the estimate"
            if ratio > MOST_OVER_ESTIMATE:
                raise PartFailed(f"{summary}: the estimate is too low", table)
        return Finding(summary, table)

    return Part(f"step{name}", 60, run)


def goals(session: Session) -> Finding:
    """Steps at the timestep of mean cost, by ISM and by SDS, and the rasterizer's share, against the GPU's goals."""
    size = STEP_TINY if session.is_tiny else (*STEP_FULL, "--weights", str(random_weights(session)))
    words = ("benchmarks/step.py", *size, "--t", str(MEAN_T))
    tables = [_table(session, *words, *more, limit_s=120) for more in ([], ["--sds", "true"])]
    ism_ms, sds_ms = (float(_rows(table)[0]["step ms"]) for table in tables)
    scene = ["--gaussians", "500", "--px", "64"] if session.is_tiny else ["--gaussians", "100000", "--px", "512"]
    table = _table(session, "benchmarks/rasterizer.py", *scene, *ONE_ROW, limit_s=60)
    ours = next(row for row in _rows(table) if row["rasterizer"] == "ours")
    lines = judged(_facts(session).get("gpu", ""), ism_ms, sds_ms, float(ours["both"].split()[0]))
    missed = [] if session.is_tiny else [line for line, is_met in lines if not is_met]
    if missed:
        raise PartFailed(f"missed: {'; '.join(missed)}", [line for line, _ in lines])
    return Finding("; ".join(line for line, _ in lines))


def resumed_run(session: Session) -> Finding:
    """A run of configs/prompt.yaml with densification, fusion and checkpoints, killed and resumed."""
    return continues_as_before(session)


def toy_training(session: Session) -> Finding:
    """Images a second that the toy prior's training takes."""
    folder = session.folder / "toy"
    views, batch, steps = (2, 4, 2) if session.is_tiny else (40, 256, 200)
    size = ["--views", str(views), "--batch", str(batch), "--steps", str(steps)]
    words = ["train", "--folder", str(folder), "--device", session.device, *size]
    session.output_of(["tools/train_toy_prior.py", *words], 120)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return Finding(f"{lines[-1]['images'] / max(lines[-1]['seconds'], 0.1):.3g} images a second")


def several_gpus(session: Session) -> Finding | str:
    """Two processes, where there are two GPUs."""
    import torch

    if session.device == "cpu" or torch.cuda.device_count() < 2:
        return "there are not two GPUs"
    words = ["-m", "torch.distributed.run", "--nproc_per_node=2", "train.py", "--opt", "configs/toy_trained.yaml",
             "--iterations", "20", "--model_path", str(session.folder / "two")]  # fmt: skip
    session.output_of(words, 90)
    return Finding("20 steps on two GPUs")


def miniature(session: Session) -> Finding | str:
    """Tables and report of a few tiny runs."""
    if session.is_tiny:
        return "not part of a rehearsal"
    out = str(session.folder / "reproduce")
    words = ["--prior", "toy", "--miniature", "--out", out, "--", "--device", session.device]
    text = session.output_of(["tools/reproduce.py", *words], 180)
    return Finding(text.splitlines()[-1])


def _table(session: Session, *words: str, limit_s: float) -> list[str]:
    """The first table that a program prints."""
    text = session.output_of([*words, "--device", session.device], limit_s)
    lines = text.splitlines()
    first = next((k for k, line in enumerate(lines) if line.startswith("|")), None)
    if first is None:
        raise PartFailed(f"{words[0]} printed no table", lines[-3:])
    last = next((k for k in range(first, len(lines)) if not lines[k].startswith("|")), len(lines))
    return lines[first:last]


def _rows(table: list[str]) -> list[dict[str, str]]:
    """A table's lines by the names of its columns."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [dict(zip(cells[0], row)) for row in cells[2:]]


PARTS = (
    Part("device", 5, device),
    Part("build", 60, build),
    Part("kernels", 20, kernels),
    Part("sanitizer", 60, sanitizer),
    Part("agreement", 20, agreement),
    Part("gpu tests", 30, gpu_tests),
    Part("rasterizer", 30, rasterizer),
    steps(""),
    steps(", upstream-like", "--upstream-like"),
    steps(", vram_O", "--vram_O", "true"),
    steps(", cuda_graphs", "--cuda_graphs", "true"),
    Part("goals", 90, goals),
    Part("resumed run", 60, resumed_run),
    Part("toy training", 30, toy_training),
    Part("several GPUs", 40, several_gpus),
    Part("miniature", 60, miniature),
)
