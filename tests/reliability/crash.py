# SPDX-License-Identifier: Apache-2.0
"""Kills a small run (SIGKILL) at random moments and resumes it: `python tests/reliability/crash.py --kills 50`.

CoGrad, densification, opacity resets, widening and the process video are in play. After every kill the newest whole
checkpoint must be at most one interval behind the last step that was logged, and never older than before; every run
that gets to its end must equal the unbroken one. When there are kills left the next run begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass

from tests.reliability.forks import forked_process
from tests.reliability.same_run import differences
from trainer.checkpoints import newest_good, numbered

ROOT = Path(__file__).resolve().parents[2]
EVERY = 4
SMALL = {
    "text": "a red cube", "guidance": "ideal", "perpneg": False, "device": "cpu", "iterations": 40, "image_w": 16, "image_h": 16,
    "view_px": 32, "init_num_pts": 80, "sh_degree": 1, "C_batch_size": 2, "densify_from_iter": 2, "densification_interval": 5,
    "densify_grad_threshold": 1e-7, "opacity_reset_interval": 12, "densify_until_iter": 36, "scale_up_cameras_iter": 7,
    "progressive_view_iter": 7, "warmup_iter": 20, "vis_interval": 9, "test_ratio": 2, "save_ratio": 4, "save_video": False, "pro_frames_num": 40,
    "CoGradParams.enabled": True, "azimuth_levels": 4, "elevation_levels": 1, "max_step_share": 0.9, "max_t_difference": 900,
    "checkpoint_every": EVERY, "keep_last_checkpoint": True, "quiet": True,
}  # fmt: skip


def words(folder: Path, **changes: object) -> list[str]:
    """The command line of the small run."""
    settings = {**SMALL, "model_path": folder, **changes}
    flags = [
        [f"--{name}", *(str(value).split() if name != "text" else [str(value)])] for name, value in settings.items()
    ]
    return [word for flag in flags for word in flag]


@dataclass
class Figures:
    """What the kills did."""

    kills: int = 0
    before_first_checkpoint: int = 0
    while_writing: int = 0  # a half-written file was left behind
    most_lost: int = 0  # steps, between the last one logged and the checkpoint that the run went on from
    runs_finished: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.while_writing} of them while a file was being written and "
            f"{self.before_first_checkpoint} before the first checkpoint; at most {self.most_lost} steps lost "
            f"(interval {EVERY}); {self.runs_finished} runs came to their end, each equal to the unbroken one"
        )


def crash(folder: Path, kills: int, seed: int, **changes: object) -> Figures:
    """Kills until `kills` are done, then lets the last run finish. AssertionError when anything is lost.

    changes: other settings than SMALL's, of every run.
    """
    rng, figures = random.Random(seed), Figures()
    _Run(folder / "unbroken", changes).run_to_its_end()
    while figures.kills < kills:
        run, newest = folder / f"run{figures.runs_finished}", 0
        while figures.kills < kills:
            steps = newest + rng.randint(0, 3 * EVERY)  # 0: while it starts
            if not _Run(run, changes).killed_after(steps, rng.uniform(0, 2 if steps == newest else 0.2)):
                break
            newest = _check(run, newest, figures)
        _Run(run, changes).run_to_its_end()  # one that has ended is gone through once more
        figures.runs_finished += 1
        differing = differences(folder / "unbroken", run)
        assert not differing, f"{run} differs from the unbroken run in {differing}"
    return figures


def _check(run: Path, newest_before: int, figures: Figures) -> int:
    """After a kill: what is lost, and the newest checkpoint's step."""
    found = newest_good(run, _damaged)
    newest = numbered(run)[0][0] if found else 0
    logged = _logged(run)
    assert newest >= newest_before, f"the checkpoint of step {newest_before} is gone, the newest is {newest}"
    assert logged - newest <= EVERY, f"step {logged} was done, the newest checkpoint is of step {newest}"
    figures.kills += 1
    figures.before_first_checkpoint += newest == 0
    figures.while_writing += any(run.rglob(".*.part"))
    figures.most_lost = max(figures.most_lost, logged - newest)
    return newest


def _logged(run: Path) -> int:
    """Steps in log.jsonl."""
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def _damaged(what: str) -> None:
    raise AssertionError(what)


class _Run:
    """train.py in a process of its own, forked from a server that has done the imports, half a run's time."""

    def __init__(self, run: Path, changes: dict[str, object]) -> None:
        self._run = run
        self._process = forked_process(_train, words(run, resume="auto", **changes))

    def run_to_its_end(self) -> None:
        self._process.join()
        assert self._process.exitcode == 0, f"train.py ended with status {self._process.exitcode}"

    def killed_after(self, steps: int, seconds: float) -> bool:
        """Kills it so long after the log had so many lines; False when it had ended by then."""
        while self._process.exitcode is None and _logged(self._run) < steps:
            time.sleep(0.01)
        self._process.join(seconds)
        if self._process.exitcode is not None:
            self.run_to_its_end()
            return False
        self._process.kill()
        self._process.join()
        return True


def _train(argv: list[str]) -> None:
    import torch

    import train

    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.exit(train.main(argv))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    args = parser.parse_args(argv)
    folder = args.keep or Path(tempfile.mkdtemp(prefix="crash"))
    start = time.perf_counter()
    try:
        print(f"{crash(folder, args.kills, args.seed)}; {time.perf_counter() - start:.0f} s")
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    program.run(main)
