# SPDX-License-Identifier: Apache-2.0
"""T3Bench's quality protocol on finished runs: python tools/t3bench.py RUN [RUN ...] --prompts FILE --weights FOLDER

FILE holds the benchmark's prompts, a prompt a line, as fetched from its repository; each run must be of one of them.
FOLDER holds the weights of ImageReward (docs/evaluation.md). evaluation/t3bench.py says what is computed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds


import numpy as np
from tqdm import tqdm

from evaluation import METRICS, MetricUnavailable, load_metric
from evaluation.icosphere import icosphere
from evaluation.orbit_flags import check_size
from evaluation.prompts import read_prompts
from evaluation.run_folder import config_of_run, gaussians_of_run, last_point_cloud
from evaluation.t3bench import HALVINGS, quality, score_scene
from utils.device import resolve_device

METRIC = "image_reward"


@program.refuses("t3bench", ValueError, OSError, MetricUnavailable)
def main(argv: list[str]) -> int:
    """Exit status: 0 done, 2 bad input or missing weights."""
    parser = program.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="the benchmark's, a prompt a line")
    parser.add_argument("--weights", type=Path, help="folder of its hub repositories; default: the hub")
    parser.add_argument("--size_px", type=int, default=512, help="side of the images (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args(argv)
    check_size("--size_px", args.size_px)
    prompts, device = read_prompts(args.prompts), resolve_device(args.device)
    own = {run: _prompt(run, prompts, args.prompts) for run in args.runs}
    metric = load_metric(METRIC, device, args.weights)
    _, neighbours = icosphere(HALVINGS)
    found: dict[str, list[float]] = {}
    for run, prompt in tqdm(own.items(), disable=None):
        gaussians = gaussians_of_run(run, config_of_run(run), device)
        value = quality(score_scene(gaussians, prompt, metric, args.size_px), neighbours)
        found.setdefault(prompt, []).append(value)
        print(f"{run}: {value:.4f}")
    mean = np.mean([np.mean(values) for values in found.values()])
    print(f"Quality by {METRICS[METRIC].title}: {mean:.4f}, mean over {len(found)} of {len(prompts)} prompts")
    return 0


def _prompt(run: Path, prompts: list[str], path: Path) -> str:
    """The run's prompt. Raises ValueError where there is no such run, or the file lacks its prompt."""
    prompt = config_of_run(run).guidance.text
    last_point_cloud(run)
    if prompt not in prompts:
        raise ValueError(f"{run} is of {prompt!r}, which {path} lacks; expected runs of that file's prompts")
    return prompt


if __name__ == "__main__":
    program.run(main)
