# SPDX-License-Identifier: Apache-2.0
"""Makes the images, times and scores of docs/scores.md from 25 runs: python tools/readme_numbers.py --out FOLDER

Finished runs in FOLDER are not repeated. It takes fifty minutes on two cores; the times are useful only if
nothing else runs. What follows `--` goes to train.py in every run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from arguments.further import RUN, refuse_set
from evaluation.experiments.grid import TRAINED_OBJECTS
from evaluation.known_truth import renderer_of_gaussians, score_run
from evaluation.pages import jpeg
from evaluation.run_folder import config_of_run, gaussians_of_run
from tools.contact_sheet import contact_sheet
from tools.document_settings import filled
from toy.alignment import rotated_views
from toy.raycast import View
from toy.reading import parse_prompt
from toy.truth import renderer_of_truth
from trainer.run_log import read_steps
from utils.general_utils import check_writable, write_text_atomically
from utils.image_utils import write_png
from utils.machine import machine
from utils.video import read_video

ROOT = Path(__file__).resolve().parents[1]
SET_BY = {**RUN, "GuidanceParams.text": "the tool"}
FRAMES, SIDE_PX = 8, 112


@dataclass(frozen=True)
class Example:
    """A row of the table; with `image` also a row of that image."""

    prompt: str
    config: str
    image: str = ""

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.config}-{'-'.join(self.prompt.split())}"


IDEAL = (
    "a cyan robot with orange arms",
    "a white snowman with red hat",
    "a yellow house with red roof",
    "a yellow mug with blue handle",
    "a red mushroom with white stem",
    "a purple owl with green belly",
)
OTHERS = (
    "a red cube with white dots",
    "a blue sphere with yellow stripe",
    "an orange cone with white stripes",
    "a green cylinder with grey lid",
    "a brown donut with pink icing",
    "a white rocket with red fins",
    "a brown table with green legs",
    "a red car with blue roof",
    "an orange cat with blue collar",
)
"""The toy world's other objects."""
RUNS = (
    *(Example(prompt, "quickstart", "quickstart.png") for prompt in IDEAL),
    *(Example(prompt, "quickstart", "others.png") for prompt in OTHERS),
    Example(IDEAL[0], "toy"),
    *(Example(prompt, "fine") for prompt in IDEAL),
    *(Example(prompt, "quickstart_trained", "trained_prior.png") for prompt in TRAINED_OBJECTS),
)


COMPARED = (IDEAL[0], IDEAL[4], IDEAL[5])
"""Prompts whose quickstart and fine run are shown beside the truth."""
SIDES = tuple(View(*angles_deg, 3.5, 0.4) for angles_deg in ((80, 0), (80, 60), (80, 120), (80, 180), (60, 300)))
SIDES_PX = 256


def train(run: Example, folder: Path, flags: Sequence[str]) -> None:
    """One run of train.py, unless it is finished; SystemExit with its status when it fails."""
    record = folder / "run.json"
    if record.is_file() and "finished_utc" in json.loads(record.read_text(encoding="utf-8")):
        return
    settings = ["--opt", f"configs/{run.config}.yaml", "--text", run.prompt, "--model_path", str(folder.resolve())]
    command = [sys.executable, "train.py", *settings, "--resume", "auto", "--quiet", *flags]
    status = subprocess.run(command, cwd=ROOT).returncode
    if status != 0:
        print(f"readme_numbers: train.py ended with status {status}; repeat the command to continue", file=sys.stderr)
        raise SystemExit(status if status > 0 else program.STOPPED)


def facts(folder: Path) -> dict[str, Any]:
    """date, seconds from start to end, peak GB and steps of a finished run."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    began, ended = (datetime.fromisoformat(record[name]) for name in ("started_utc", "finished_utc"))
    steps = len(read_steps(folder / "log.jsonl"))
    gb = record["peak_bytes"]["main"] / 1e9
    return {"date": f"{ended:%Y-%m-%d}", "s": (ended - began).total_seconds(), "gb": gb, "steps": steps}


def times(facts_of: dict[str, list[dict[str, Any]]]) -> str:
    """The sentence about time and memory, from the first run of each config."""
    quick, fine, toy = (facts_of[config][0] for config in ("quickstart", "fine", "toy"))
    return (
        f"Measured {quick['date']} on {machine()}: {quick['steps']} steps of the quickstart in {quick['s']:.0f} s, "
        f"{quick['gb']:.2f} GB at most;\n"
        f"{fine['steps']} steps of `configs/fine.yaml` in {fine['s']:.0f} s, {fine['gb']:.2f} GB; "
        f"the baseline, CoGrad off and smaller images, takes {toy['s']:.0f} s and "
        f"{toy['gb']:.2f} GB."
    )


def row(run: Example, scores: dict[str, Any]) -> str:
    """A row of the table of scores: aligned in yaw, and the yaw."""
    numbers = [f"{scores['psnr']:.1f}", *(f"{scores[name]:.2f}" for name in ("ssim", "iou", "detail"))]
    numbers.append(f"{scores['yaw_deg']:.0f}")
    fronts = "-" if scores["clean"] is None else str(scores["fronts"]) + ("" if scores["clean"] else ", not clean")
    return f"| {' | '.join([run.prompt, f'`{run.config}`', *numbers, fronts])} |"


def beside_truth(prompt: str, out: Path, yaw_deg: dict[str, float]) -> np.ndarray:
    """uint8 [3 SIDES_PX, ., 3]: the quickstart, the fine run, each turned by its yaw, and the truth, from SIDES."""
    rows = [renderer_of_truth(parse_prompt(prompt))(SIDES, SIDES_PX)[0]]
    for config in ("fine", "quickstart"):
        run = Example(prompt, config)
        shown = renderer_of_gaussians(gaussians_of_run(out / run.name, config_of_run(out / run.name)))
        rows.insert(0, shown(rotated_views(SIDES, yaw_deg[run.name]), SIDES_PX)[0])
    image = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)  # [3, H, W]
    return np.round(np.moveaxis(image, 0, -1) * 255).astype(np.uint8)


def write(out: Path, root: Path) -> None:
    """Images, times and table of the finished runs in `out`, into the checkout at `root`."""
    found: dict[str, list[dict[str, Any]]] = {}
    videos: dict[str, list[Path]] = {}
    yaw_deg = {}
    rows = ["| prompt | config | PSNR | SSIM | IoU | detail | yaw | fronts |", "|---|---|---|---|---|---|---|---|"]
    for run in RUNS:
        folder = out / run.name
        found.setdefault(run.config, []).append(facts(folder))
        scores = score_run(folder)
        yaw_deg[run.name] = scores["yaw_deg"]
        rows.append(row(run, scores))
        if run.image:
            last = max(folder.glob("videos/*/video_rgb_*.mp4"), key=lambda path: int(path.stem.rpartition("_")[2]))
            videos.setdefault(run.image, []).append(last)
    for name, files in videos.items():
        sheet = contact_sheet([read_video(file) for file in files], FRAMES, SIDE_PX)
        write_png(root / "docs" / "images" / name, sheet)
    compared = np.concatenate([beside_truth(prompt, out, yaw_deg) for prompt in COMPARED])
    (root / "docs" / "images" / "fine.jpg").write_bytes(jpeg(compared))
    document = root / "docs" / "scores.md"
    page = document.read_text(encoding="utf-8")
    for name, text in (("times", times(found)), ("scores", "\n".join(["", *rows, ""]))):
        page = filled(page, name, text, "readme_numbers")
    write_text_atomically(document, page)


@program.refuses("readme_numbers", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status 0; that of a run that failed."""
    own, flags = program.split_at_dashes(argv)
    parser = program.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; finished ones are kept")
    args = parser.parse_args(own)
    refuse_set(flags, SET_BY)
    for path in (args.out / "run", ROOT / "docs" / "scores.md", ROOT / "docs" / "images" / "fine.jpg"):
        check_writable(path)
    for number, run in enumerate(RUNS, 1):
        print(f"{number} of {len(RUNS)}: {run.prompt}, configs/{run.config}.yaml", flush=True)
        train(run, args.out / run.name, flags)
    write(args.out, ROOT)
    return 0


if __name__ == "__main__":
    program.run(main)
