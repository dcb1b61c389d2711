# SPDX-License-Identifier: Apache-2.0
"""Images of finished runs in GPTEval3D's folder layout: python tools/gpteval3d.py RUN [RUN ...] --out FOLDER

120 views of 512 px of each run and their normals; evaluation/gpteval3d.py says where and how. A run's method is its
folder's name up to the first "-". Called again, it makes the assets that are missing. The evaluator, its config.json
and its key are yours: nothing is sent from here.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds


from tqdm import tqdm

from evaluation.gpteval3d import SIDE_PX, VIEWS, assets_of, check_same, write_asset, write_prompts
from evaluation.orbit_flags import check_size
from evaluation.prompts import read_prompts
from utils.device import resolve_device
from utils.general_utils import check_writable
from utils.wording import counted


@program.refuses("gpteval3d", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 done, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="folder of the layout")
    add = parser.add_argument
    add("--prompts", type=Path, metavar="FILE", help="prompts.json of the tournament; default: the runs'")
    parser.add_argument("--views", type=int, default=VIEWS, help="images of a turn (%(default)s)")
    parser.add_argument("--size_px", type=int, default=SIDE_PX, help="side of the images (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda: where images are rendered")
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    check_writable(args.out / "prompts.json")
    check_size("--size_px", args.size_px)
    program.check_bounds(args, {"views": (1, 100_000)})
    prompts, assets = assets_of(args.runs, read_prompts(args.prompts) if args.prompts else None)
    left = [asset for asset in assets if not (args.out / asset.folder).exists()]
    for asset in assets:
        check_same(args.out, asset, args.views, args.size_px)
    write_prompts(args.out, prompts)
    for asset in tqdm(left, disable=None):
        write_asset(args.out, asset, device, args.views, args.size_px)
    print(f"Wrote {counted(len(left), 'asset')} to {args.out}; there before: {len(assets) - len(left)}")
    return 0


if __name__ == "__main__":
    program.run(main)
