# SPDX-License-Identifier: Apache-2.0
"""Distillation laws on a free image: python tools/distill_2d.py --distillation asd --text "a red mushroom" --out FOLDER

One image is optimised under each law. FOLDER gets NAME.png, the film NAME.mp4, NAME.csv with loss and timestep of every
step, and sheet.png: a row a law, from the start to the end. What follows `--` are settings as train.py takes them:
... --distillation all -- --guidance_scale 30
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse

import numpy as np

from arguments import Config
from arguments.further import RUN, flag_of, labels_of, refuse_set
from arguments.load import load_config
from distillation import LAWS
from evaluation.free_image import distill_image
from trainer.distributed import ALONE
from trainer.priors import load_prior_and_prompts
from trainer.workers import device_of
from utils.general_utils import check_writable, write_text_atomically
from utils.heat_map import text_strip
from utils.image_utils import to_uint8, write_png
from utils.video import VideoWriter

SET_BY = {
    **RUN,
    "GenerateCamParams.image_w": "--size",
    "GenerateCamParams.image_h": "--size",
    "GuidanceParams.text": "--text",
    "GuidanceParams.distillation": "--distillation",
    "GuidanceParams.sds": "--distillation",
    "GuidanceParams.guidance": "--prior",
    "GuidanceParams.model_key": "--prior",
    "OptimizationParams.iterations": "--steps",
}
READ = ("GuidanceParams", "GenerateCamParams", "seed", "device")
"""Groups and settings of the top level that have an effect on a free image."""
SHEET_COLUMNS, FILM_FRAMES = 6, 100
PRIORS = {
    "ideal": ["--opt", "configs/toy.yaml", "--ideal_uncond", "all"],  # laws of e_c - e_u need other objects in e_u
    "trained": ["--opt", "configs/toy_trained.yaml"],
}


@program.refuses("distill_2d", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 bad input."""
    words, settings = program.split_at_dashes(argv)
    parser = program.parser(__doc__)
    parser.add_argument("--distillation", nargs="+", required=True, metavar="LAW", help=f"all, or of {', '.join(LAWS)}")
    parser.add_argument("--text", required=True, help="the prompt; the front view of it is made")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--prior", default="ideal", help="ideal, trained, or a folder with a Stable Diffusion model")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, help="side of the image in px (default: 64; 512 for Stable Diffusion)")
    parser.add_argument("--rate", type=float, default=0.02, help="Adam's learning rate")
    parser.add_argument("--latents", action="store_true", help="optimise the latents instead of the image")
    args = parser.parse_args(words)
    program.check_bounds(args, {"steps": (1, 1_000_000), "size": (8, 8192), "rate": (1e-9, 100)})
    refuse_set(settings, SET_BY)
    check_writable(args.out / "sheet.png")
    names = [*LAWS] if args.distillation == ["all"] else args.distillation
    runs = {name.rpartition(":")[2]: config_of(name, args, settings) for name in names}  # all read before the first
    rows = []
    for name, config in runs.items():
        row = np.hstack(_made(name, config, args))
        rows += [text_strip(name, row.shape[1]), row]
    write_png(args.out / "sheet.png", np.vstack(rows))
    print(args.out / "sheet.png")
    return 0


def config_of(law: str, args: argparse.Namespace, settings: list[str]) -> Config:
    """The settings of one law's run. Raises ValueError."""
    is_toy = args.prior in PRIORS
    base = PRIORS[args.prior] if is_toy else ["--opt", "configs/luciddreamer.yaml", "--model_key", args.prior]
    side = str(args.size or (64 if is_toy else 512))
    own = ["--text", args.text, "--distillation", law, "--image_w", side, "--image_h", side]
    config = load_config([*base, *own, *settings])
    for label in labels_of(settings):
        if label.partition(".")[0] not in READ:
            raise ValueError(f"`{flag_of(label)}` has no effect on a free image; leave it out")
    return config


def _made(name: str, config: Config, args: argparse.Namespace) -> list[np.ndarray]:
    """Runs one law, writes its files, and returns its tiles of the sheet."""
    prior, prompts = load_prior_and_prompts(config, device_of(config, ALONE))
    film = range(args.steps, 0, -max(args.steps // FILM_FRAMES, 1))
    shown = np.linspace(1, args.steps, SHEET_COLUMNS).round().astype(int)
    tiles, lines = {}, ["iteration,loss,t"]
    with VideoWriter(args.out / f"{name}.mp4", 20) as video:
        for step in distill_image(config, prior, prompts, args.steps, args.rate, args.latents):
            lines.append(f"{step.iteration},{step.loss:.6g},{step.t}")
            image = to_uint8(step.image)
            if step.iteration in film:
                video.add(image)
            if step.iteration in shown:
                tiles[step.iteration] = image
    write_png(args.out / f"{name}.png", image)
    write_text_atomically(args.out / f"{name}.csv", "\n".join(lines) + "\n")
    print(f"{name}: loss {step.loss:.4g} at step {step.iteration}, {args.out / name}.png", flush=True)
    return [tiles[at] for at in shown]


if __name__ == "__main__":
    program.run(main)
