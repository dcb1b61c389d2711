# SPDX-License-Identifier: Apache-2.0
"""The Mip filter at other sizes than the training's, against known truth: python benchmarks/mip.py --out FOLDER

Trainings with configs/quickstart.yaml (ideal prior, CoGrad on) at TRAINED_PX with equal prompts, seeds and steps, with
and without PipelineParams.mip_filter; then PSNR in dB of the 24 scored views at a quarter to four times that size,
aligned as toy/scoring.py does. What was trained with the filter is also shown as by a viewer that does not know of it,
and the converse. FOLDER keeps the clouds (finished trainings are not made again) and gets sheet.png: a row an object
and size, the truth, then a column a line of the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
from datetime import UTC, datetime

import numpy as np
import torch

from arguments import Config
from arguments.load import load_config
from evaluation.known_truth import renderer_of_gaussians
from scene.gaussian_model import GaussianModel
from toy.alignment import best_yaw, rotated_views
from toy.captions import Spec
from toy.fronts import scan
from toy.raycast import View
from toy.reading import parse_prompt
from toy.scoring import scored_views
from toy.similarity import psnr
from toy.truth import Renderer, renderer_of_truth
from trainer.priors import load_prior_and_prompts
from trainer.state import TrainState
from trainer.step import training_step
from utils.image_utils import write_png
from utils.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ("a cyan robot with orange arms", "a purple owl with green belly")
TRAINED_PX, STEPS = 128, 500
SIZES_PX = (32, 64, 128, 256, 512)
SHOWN_PX, SHOWN_AZIMUTH_DEG, SHOWN = 256, 45.0, (32, 128, 512)
LINES = ((False, False), (True, True), (True, False), (False, True))
"""The filter in training, on the screen in rendering."""


def settings_of(text: str, mip_filter: bool, folder: Path) -> Config:
    """Of one training."""
    settings: dict[str, object] = {
        "text": text, "image_w": TRAINED_PX, "image_h": TRAINED_PX, "iterations": STEPS, "device": "cpu",
        "model_path": folder, "PipelineParams.mip_filter": str(mip_filter).lower(),
    }  # fmt: skip
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return load_config(["--opt", str(ROOT / "configs" / "quickstart.yaml"), *flags])


def trained(text: str, mip_filter: bool, folder: Path) -> tuple[Config, GaussianModel]:
    """Trains, and keeps point_cloud.ply in `folder`, unless it is there."""
    config, kept = settings_of(text, mip_filter, folder), folder / "point_cloud.ply"
    if not kept.is_file():
        prior, prompts = load_prior_and_prompts(config, torch.device("cpu"))
        state = TrainState.start(config, "cpu", writes=False)
        state.begin_cograd(config, prior.alphas_cumprod)
        for _ in range(STEPS):
            training_step(state, prior, prompts, config)
        state.gaussians.save_ply(kept)
        print(f"{text}, mip_filter {mip_filter}: {kept}", file=sys.stderr, flush=True)
    return config, GaussianModel.from_ply(kept)


def psnr_of_sizes(render: Renderer, spec: Spec, views: list[View], yaw_deg: float) -> list[float]:
    """The mean over the views for each size."""
    seen = rotated_views(views, yaw_deg)
    pairs = [(render(seen, px)[0], renderer_of_truth(spec)(views, px)[0]) for px in SIZES_PX]
    return [float(np.mean([psnr(image, true) for image, true in zip(*pair)])) for pair in pairs]


def enlarged(render: Renderer, view: View, size_px: int) -> np.ndarray:
    """[S, S, 3] in [0, 1]: rendered in size_px, of which the middle is shown where it is larger than SHOWN_PX."""
    image = np.moveaxis(render([view], size_px)[0][0], 0, -1)
    times, margin = max(SHOWN_PX // size_px, 1), max(size_px - SHOWN_PX, 0) // 2
    return image[margin : margin + SHOWN_PX, margin : margin + SHOWN_PX].repeat(times, axis=0).repeat(times, axis=1)


@program.refuses("mip", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    found = np.zeros((len(OBJECTS), len(LINES), len(SIZES_PX)))
    rows = []
    for k, text in enumerate(OBJECTS):
        spec, columns = parse_prompt(text), list[tuple[Renderer, float]]()
        for n, (in_training, in_rendering) in enumerate(LINES):
            config, gaussians = trained(text, in_training, args.out / f"{k}_{'on' if in_training else 'off'}")
            views = scored_views(config.cameras.default_radius, config.cameras.default_fovy)
            own = renderer_of_gaussians(gaussians)
            yaw_deg = best_yaw(own, spec, scan(own, spec, views[0].radius, views[0].fov_rad), views, 64)
            gaussians.antialiased = in_rendering
            found[k, n] = psnr_of_sizes(own, spec, views, yaw_deg)
            columns.append((own, yaw_deg))
        front = View(70.0, SHOWN_AZIMUTH_DEG, views[0].radius, views[0].fov_rad)
        for px in SHOWN:
            row = [(renderer_of_truth(spec), 0.0), *columns]
            images = [enlarged(render, rotated_views([front], yaw_deg)[0], px) for render, yaw_deg in row]
            rows.append(np.concatenate(images, axis=1))
    write_png(args.out / "sheet.png", np.round(np.concatenate(rows) * 255).astype(np.uint8))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {len(OBJECTS)} objects, {STEPS} steps at {TRAINED_PX} px\n")
    print("| in training | on the screen | " + " | ".join(f"{px} px" for px in SIZES_PX) + " |")
    print("|---|---|" + "---|" * len(SIZES_PX))
    for line, means in zip(LINES, found.mean(axis=0)):
        words = " | ".join("on" if on else "off" for on in line)
        print(f"| {words} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    print(f"\neach object: {np.round(found, 2).tolist()}")


if __name__ == "__main__":
    program.run(main)
