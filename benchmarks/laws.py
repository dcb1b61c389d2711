# SPDX-License-Identifier: Apache-2.0
"""Every distillation law on a small scene of the toy world: `python benchmarks/laws.py --out FOLDER`.

Each law with its own numbers, CoGrad off and on, on both priors. FOLDER gets one JSON a run, the scenes, and
sheet_PRIOR.png: a row a law, from four sides; the table is printed. Called again, it makes the runs that are missing.
--chroma prints another table instead: how far SDS over-saturates a free image of the object's front, by guidance scale.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import numpy as np
import torch
from torch import Tensor

import train
from arguments.load import load_config
from distillation import LAWS
from evaluation.ablation import clouds
from evaluation.ablation.report import views_of_cloud
from evaluation.ablation.scores import measure, run_grid
from evaluation.experiments.grid import ABLATION_OUTPUTS, CONFIGS
from evaluation.experiments.runs import Result, Run, Sweep, read_results
from evaluation.free_image import distill_image
from guidance.prompts import PromptEmbeddings
from toy.ideal import IdealPrior
from toy.raycast import View
from toy.reading import parse_prompt
from toy.truth import renderer_of_truth
from utils.general_utils import check_writable
from utils.heat_map import text_lines
from utils.image_utils import write_png
from utils.machine import machine
from utils.wording import markdown

PROMPT = "a cyan robot with orange arms"
SCENE = ("--image_w", "48", "--image_h", "48", "--init_num_pts", "1000")
SCORE_PX, SIDE_PX, SIDES, LABEL_PX = 128, 72, 4, 65
SWITCH = {False: "off", True: "on"}
CHROMA_SCALES, CHROMA_STEPS, CHROMA_RATE, CHROMA_PX = (1.0, 3.0, 7.5, 30.0, 101.0), 150, 0.03, 32


def run_of(prior: str, law: str, cograd: bool, steps: int) -> Run:
    """One run of the table. On the ideal prior the unconditional images are of all objects, for laws of e_c - e_u."""
    flags = ["--opt", CONFIGS[prior], *ABLATION_OUTPUTS, *SCENE, "--iterations", str(steps), "--text", PROMPT]
    flags += ["--ideal_uncond", "all"] if prior == "ideal" else []
    flags += ["--distillation", law, "--CoGradParams.enabled", str(cograd).lower()]
    facts = {"prior": prior, "law": law, "cograd": cograd, "prompt": PROMPT}
    return Run(f"{prior}-{law}-cograd_{SWITCH[cograd]}-seed0", tuple(flags), facts)


def table(results: Sequence[Result], laws: Sequence[str], priors: Sequence[str]) -> str:
    """PSNR in dB, and whether the object has exactly one front; a dash for a run that is not there."""
    found = {(r["prior"], r["law"], r["cograd"]): r["scores"] for r in results}
    columns = list(product(priors, SWITCH))

    def cell(law: str, prior: str, cograd: bool) -> str:
        scores = found.get((prior, law, cograd))
        return "-" if scores is None else f"{scores['psnr']:.1f}{', clean' if scores['clean'] else ''}"

    header = ["law", *(f"{prior} prior, CoGrad {SWITCH[cograd]}" for prior, cograd in columns)]
    return markdown(header, [[f"`{law}`", *(cell(law, *column) for column in columns)] for law in laws])


def sheet(out: Path, laws: Sequence[str], prior: str, steps: int) -> np.ndarray:
    """RGB uint8: a row a law, four sides with CoGrad off, then on; white where a run has no scene."""
    head = [text_lines([f"CoGrad {name}"], SIDES * SIDE_PX, 20) for name in SWITCH.values()]
    rows = [np.hstack([text_lines([""], LABEL_PX, 20), *head])]
    for law in laws:
        row = [text_lines([law], LABEL_PX, SIDE_PX)]
        for cograd in SWITCH:
            kept = clouds.snapshots(clouds.folder_of(out, run_of(prior, law, cograd, steps).name))
            blank = np.full((SIDE_PX, SIDES * SIDE_PX, 3), 255, np.uint8)
            row.append(views_of_cloud(kept[-1], SIDE_PX, SIDES) if kept else blank)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def colours_of(image: Tensor) -> tuple[float, float]:
    """Of an image [3, H, W]: mean chroma (largest less smallest channel), and the share of values at 0 or 1."""
    chroma = (image.amax(dim=0) - image.amin(dim=0)).mean()
    return float(chroma), float(((image <= 0) | (image >= 1)).float().mean())


def over_saturation(scales: Sequence[float], steps: int) -> Iterator[list[str]]:
    """The rows of the table of chroma, one for each number and kind of unconditional images."""
    found: dict[str, list[tuple[float, float]]] = {}
    for uncond in ("all", "object"):
        side = str(CHROMA_PX)
        words = ["--opt", CONFIGS["ideal"], "--distillation", "sds", "--ideal_uncond", uncond, "--text", PROMPT]
        config = load_config([*words, "--image_w", side, "--image_h", side, "--device", "cpu"])
        prior, cameras = IdealPrior(config.guidance, "cpu", CHROMA_PX, config.cameras), config.cameras
        front = View(cameras.default_polar, 0.0, cameras.default_radius, cameras.default_fovy)
        found[uncond] = []
        for scale in scales:
            scaled = replace(config, guidance=replace(config.guidance, guidance_scale=scale))
            *_, last = distill_image(scaled, prior, PromptEmbeddings(prior, scaled.guidance), steps, CHROMA_RATE)
            found[uncond].append(colours_of(last.image))
        truth = renderer_of_truth(parse_prompt(PROMPT))([front], CHROMA_PX)[0][0]
        found[uncond].append(colours_of(torch.from_numpy(truth)))
    for (column, title), uncond in product(enumerate(("chroma", "at 0 or 1")), found):
        yield [f"{title}, `ideal_uncond: {uncond}`", *(f"{values[column]:.3f}" for values in found[uncond])]


@program.refuses("laws", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 all runs are there, 1 some failed, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("output/laws"), metavar="FOLDER")
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS), metavar="LAW")
    parser.add_argument("--priors", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--steps", type=int, help="of each run (default 300), of a free image (default 150)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--chroma", action="store_true", help="print the table of over-saturation")
    args = parser.parse_args(argv)
    program.check_bounds(args, {"steps": (1, 1_000_000), "jobs": (1, 1000)})
    if not args.chroma:
        check_writable(args.out / "sheet.png")
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n")
    if args.chroma:
        given = program.given_flags(parser, argv)
        program.refuse_unread(given, "--chroma", given.keys() - {"chroma", "steps"})
        rows = list(over_saturation(CHROMA_SCALES, args.steps or CHROMA_STEPS))
        print(markdown(["guidance scale", *(f"{scale:g}" for scale in CHROMA_SCALES), "the object itself"], rows))
        return 0
    steps = args.steps or 300
    runs = [run_of(*cell, steps) for cell in product(args.priors, args.laws, SWITCH)]
    args.out.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(args.out, train.main, functools.partial(measure, score_px=SCORE_PX), jobs=args.jobs)
    failed = run_grid(runs, sweep, lambda line: print(line, file=sys.stderr))
    print(table(read_results(args.out, [run.name for run in runs]), args.laws, args.priors))
    for prior in args.priors:
        write_png(args.out / f"sheet_{prior}.png", sheet(args.out, args.laws, prior, steps))
    for failure in failed:
        print(f"laws: failed: {failure}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    program.run(main)
