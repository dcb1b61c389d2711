# SPDX-License-Identifier: Apache-2.0
"""What runs take of the disk, and what of it can go: python tools/clean.py [FOLDER ...]

A FOLDER is a run folder or holds run folders (default: output). Checkpoints of finished runs are listed, unless
checkpoint_iterations or keep_last_checkpoint asked for them; --delete removes them. A run in progress is left alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

from trainer.disk_use import disk_use, free, runs_below


@program.refuses("clean", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 listed, or removed, 2 bad input or a run that nothing could be removed of; the others are."""
    parser = program.parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", default=[Path("output")])
    parser.add_argument("--exports", action="store_true", help="exported files, which can be made again, too")
    parser.add_argument("--delete", action="store_true", help="remove what is listed as removable")
    args = parser.parse_args(argv)
    runs = []
    for folder in args.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give a run folder, or one that holds run folders.")
        runs += runs_below(folder)
    freed, status = 0, program.FINISHED
    print(f"{'MB':>9} {'removable':>10}  state       run")
    for use in (disk_use(run, args.exports) for run in {run.resolve(): run for run in runs}.values()):
        print(f"{use.total_bytes / 1e6:9.1f} {use.removable_bytes / 1e6:10.1f}  {use.state:<10}  {use.run}")
        if not (args.delete and use.removable):
            freed += use.removable_bytes
            continue
        try:
            freed += free(use.run, args.exports)
        except (ValueError, OSError) as problem:  # a run has taken the folder, or it cannot be written
            print(f"{program.command_of('clean')}: {problem}", file=sys.stderr)
            status = program.REFUSED
    print(f"{freed / 1e6:.1f} MB were removed." if args.delete else f"{freed / 1e6:.1f} MB can go: add --delete.")
    return status


if __name__ == "__main__":
    program.run(main)
