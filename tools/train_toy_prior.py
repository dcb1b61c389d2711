# SPDX-License-Identifier: Apache-2.0
"""Trains the embedded toy prior on rendered objects and exports it in diffusers layout.

    python tools/train_toy_prior.py train --folder RUN --minutes 90      start, or continue after a stop at any moment
    python tools/train_toy_prior.py train --folder RUN --from assets/toy-prior --minutes 250      continue an export
    python tools/train_toy_prior.py export --folder RUN --to assets/toy-prior

Training renders its images (about 8 ms a view), needs no download, and can be stopped at any time: the checkpoint
holds a running average of the weights that `export` writes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse

import torch

from toy.training.data import load_or_render
from toy.training.model import Sizes
from toy.training.training import PriorTrainer, TrainSettings, facts_of, read_checkpoint
from utils.device import resolve_device
from utils.general_utils import check_writable


def parse(argv: list[str]) -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = program.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train, or continue a stopped training")
    export = commands.add_parser(
        "export", help="write the averaged weights in diffusers layout, with model card and images"
    )
    for command in (train, export):
        command.add_argument("--folder", type=Path, required=True, help="run folder: checkpoint.pt, log.jsonl")
        command.add_argument("--views", type=int, default=1000, help="rendered views of a class")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--data-cache", type=Path, help="where the rendered views are kept between calls (.npz)")
        command.add_argument("--threads", type=int, default=2, help="CPU threads")
    train.add_argument("--from", dest="prior", type=Path, help="an exported prior to begin with, in a new --folder")
    train.add_argument("--minutes", type=float, default=90.0, help="length of the schedule in trained minutes")
    train.add_argument("--steps", type=int, help="length of the schedule in steps; reproducible, overrides --minutes")
    train.add_argument("--batch", type=int, default=32)
    train.add_argument("--lr", type=float, default=1.2e-3)
    train.add_argument(
        "--channels", type=int, nargs="+", default=list(Sizes().channels), help="U-Net channels, fine to coarse"
    )
    train.add_argument("--device", default="cpu", help="cpu, or cuda: the networks' part; images are drawn on the CPU")
    export.add_argument("--to", type=Path, required=True, help="folder to write, for example assets/toy-prior")
    export.add_argument("--remarks", default="", help="what you saw in the sample grid, quoted by the model card")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace) -> tuple[TrainSettings, Sizes]:
    """Of the command `train`. Raises ValueError."""
    settings = TrainSettings(seed=args.seed, batch=args.batch, lr=args.lr, steps=args.steps, minutes=args.minutes)
    return settings, Sizes(channels=tuple(args.channels))


def check(args: argparse.Namespace) -> None:
    """Raises ValueError and OSError for what would be refused after the views were rendered, which takes minutes."""
    program.check_bounds(args, {"views": (1, 1_000_000), "threads": (1, 1024)})
    if args.data_cache is not None:
        check_writable(args.data_cache)
    checkpoint = args.folder / "checkpoint.pt"
    if args.command == "export":
        if not checkpoint.is_file():
            raise ValueError(f"{args.folder} holds no checkpoint.pt; give the --folder of a training.")
        read_checkpoint(checkpoint)
        check_writable(args.to / "measured.json")
        return
    _, sizes = settings_of(args)
    resolve_device(args.device)
    check_writable(checkpoint)
    if checkpoint.is_file():
        read_checkpoint(checkpoint, sizes)
    elif args.prior is not None:
        facts_of(args.prior)


@program.refuses("train_toy_prior", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Runs one command."""
    args = parse(argv)
    check(args)
    torch.set_num_threads(args.threads)
    rendered = load_or_render(args.data_cache, args.views, args.seed, workers=args.threads)
    if args.command == "export":
        from toy.training.export import export_prior

        export_prior(args.folder, args.to, rendered, remarks=args.remarks)
        return 0
    trainer = PriorTrainer(*settings_of(args), rendered, args.folder, resolve_device(args.device))
    if trainer.resume():
        ignored = "" if args.prior is None else f"; --from {args.prior} has no effect on a training that was begun"
        print(f"continuing at step {trainer.step}{ignored}", flush=True)
    elif args.prior is not None:
        trainer.start_from(args.prior)
        print(f"starting from {args.prior}, at step {trainer.step}", flush=True)
    else:
        print("starting", flush=True)
    trainer.run()
    return 0


if __name__ == "__main__":
    program.run(main)
