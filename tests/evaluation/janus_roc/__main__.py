# SPDX-License-Identifier: Apache-2.0
"""How often are the automatic Janus measures right? python -m tests.evaluation.janus_roc --out FOLDER

Scenes of the toy world whose fronts are known: built ones and, with --kept, the clouds that tools/ablate_toy.py left in
its folders. Writes scenes.csv (a line a scene), calibration.json (what tools/janus.py prints) and roc.png, and prints
the tables of benchmarks/results/janus.md. With --weights the view words are tried with the CLIP in that folder; without, with
simulated classifiers. --scenes FILE.csv reads the scenes of an earlier call instead of making them.
"""

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from evaluation import MetricUnavailable
from evaluation.experiments.tables import csv_text
from tests.evaluation.janus_roc.clip import classified
from tests.evaluation.janus_roc.figure import figure
from tests.evaluation.janus_roc.page import calibration, page, simulated
from tests.evaluation.janus_roc.scenes import Scene, built_scenes, kept_scenes
from toy.objects import ONE_SIDED
from utils.image_utils import write_png

JANUS = {"yes": True, "no": False, "": None}


def scenes_csv(scenes: Sequence[Scene]) -> str:
    """A line a scene."""
    words = {janus: word for word, janus in JANUS.items()}
    lines = [
        [s.source, s.object, s.kind, words[s.janus], f"{s.order:.4f}", " ".join(f"{a:g}" for a in s.seen_deg)]
        for s in scenes
    ]
    return csv_text([["source", "object", "kind", "janus", "order", "seen_deg"], *lines])


def read_scenes(path: Path) -> list[Scene]:
    """Of a scenes.csv."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Scene(
                line["source"], line["object"], line["kind"], JANUS[line["janus"]], float(line["order"]),
                tuple(float(azimuth) for azimuth in line["seen_deg"].split()),
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip


def _made(args: argparse.Namespace) -> Iterator[Scene]:
    for folder in args.kept:
        yield from kept_scenes(folder)
    for class_name in args.objects:
        yield from built_scenes(class_name, fit=False)
        if args.fit:
            yield from built_scenes(class_name, fit=True)


@program.refuses("janus_roc", ValueError, OSError, MetricUnavailable)
def main(argv: list[str]) -> int:
    """Exit status: 0 done, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of scenes.csv, calibration.json and roc.png")
    parser.add_argument("--kept", type=Path, nargs="+", default=[], metavar="FOLDER", help="of tools/ablate_toy.py")
    parser.add_argument("--objects", nargs="+", choices=ONE_SIDED, default=ONE_SIDED)
    parser.add_argument("--fit", action="store_true", help="clouds fitted to the built scenes too")
    parser.add_argument("--scenes", type=Path, metavar="FILE.csv", help="scenes of an earlier call; make none")
    parser.add_argument("--weights", type=Path, help="folder of clip-vit-base-patch32; needs no --scenes")
    args = parser.parse_args(argv)
    if len(args.objects) < 2:
        raise ValueError(f"--objects {args.objects[0]}: expected two or more, each is held out in turn")
    torch.set_num_threads(1)
    words = classified(args.objects, args.weights) if args.weights else []  # first: it may find no weights
    scenes = read_scenes(args.scenes) if args.scenes else list(_made(args))
    found = calibration(scenes)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scenes.csv").write_text(scenes_csv(scenes), encoding="utf-8")
    (args.out / "calibration.json").write_text(json.dumps({"order": found}, indent=1) + "\n", encoding="utf-8")
    write_png(args.out / "roc.png", figure(scenes, found["threshold"]))
    print(page(scenes, words or simulated(scenes)))
    return 0


if __name__ == "__main__":
    program.run(main)
