# SPDX-License-Identifier: Apache-2.0
"""CLIP R-Precision of finished runs: python tools/r_precision.py RUN [RUN ...] [--prompts FILE] [--clip clip_l14]

How often CLIP picks a run's own prompt out of a set: per view (120 of a turn), and per asset, by the mean of
its views. The set is the gallery's 415 prompts, or those of FILE (a prompt a line, or a JSON list).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds


from evaluation import METRICS, MetricUnavailable, clip_similarity
from evaluation.janus import share
from evaluation.prompts import gallery, read_prompts
from evaluation.r_precision import Retrieval, prompt_set, retrieval
from evaluation.run_folder import config_of_run, gaussians_of_run, last_point_cloud, orbit
from utils.device import resolve_device

CLIPS = [name for name, kind in METRICS.items() if kind.module == "clip_similarity"]


@program.refuses("r_precision", ValueError, OSError, MetricUnavailable)
def main(argv: list[str]) -> int:
    """Exit status: 0 done, 2 bad input or missing weights."""
    parser = program.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="the set; default: the gallery's 415")
    parser.add_argument("--clip", choices=CLIPS, default=CLIPS[0])
    parser.add_argument("--weights", type=Path, help="folder of its hub repository; default: the hub")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args(argv)
    configs = [config_of_run(run) for run in args.runs]
    for run in args.runs:
        last_point_cloud(run)
    prompts = prompt_set(
        read_prompts(args.prompts) if args.prompts else gallery(), [config.guidance.text for config in configs]
    )
    device = resolve_device(args.device)
    clip = clip_similarity.load(device, args.weights, METRICS[args.clip].source)
    found = []
    for run, config in zip(args.runs, configs):
        images = orbit(gaussians_of_run(run, config, device), config, METRICS[args.clip].views)
        found.append(retrieval(clip.similarities(images, prompts), prompts.index(config.guidance.text)))
        outcome = "found" if found[-1].asset else "not found"
        print(f"{run}: {found[-1].hits} of {found[-1].views} views; the asset's prompt is {outcome}")
    print(_summary(found, METRICS[args.clip].title, len(prompts)))
    return 0


def _summary(found: list[Retrieval], title: str, prompts: int) -> str:
    views, hits = sum(own.views for own in found), sum(own.hits for own in found)
    return (
        f"R-Precision by {title} over {prompts} prompts (chance {1 / prompts:.4f}): "
        f"per view {hits / views:.4f}, per asset {share(sum(own.asset for own in found), len(found))}"
    )


if __name__ == "__main__":
    program.run(main)
