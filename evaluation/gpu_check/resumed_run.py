# SPDX-License-Identifier: Apache-2.0
"""A run that is killed after a checkpoint and resumed: does it make the same steps again?"""

import time
from pathlib import Path
from typing import Any

from evaluation.gpu_check.protocol import ROOT, Finding, PartFailed, Session, end, last_lines
from trainer.checkpoints import numbered
from trainer.run_log import read_steps

MOST_APART = 0.05  # of the loss, relative, between a step and its repetition on a GPU, which may sum in another order
POLL_S = 0.05
# Everything that a run of thousands of steps meets, within a few.
EARLY = {
    "densify_from_iter": 5, "densification_interval": 5, "fusion_range": "0.0,1.0", "max_step_share": 0.9,
    "azimuth_levels": 4, "elevation_levels": 1, "max_t_difference": 1000, "test_ratio": 1, "save_video": "false",
    "quiet": "true",
}  # fmt: skip
FULL = {"iterations": 60, "checkpoint_every": 20, "killed_after": 30, "C_batch_size": 4}
TINY = {"iterations": 24, "checkpoint_every": 3, "killed_after": 5, "C_batch_size": 1}
TINY_RUN = {
    "image_w": 16, "image_h": 16, "distillation": "sds", "fp16": "false", "init_num_pts": 200, "view_px": 16,
    "save_process": "false",
}  # fmt: skip


def continues_as_before(session: Session) -> Finding:
    """Kills a run, resumes it, and compares the steps that were made twice. Raises PartFailed."""
    size = TINY if session.is_tiny else FULL
    folder = session.folder / "run"
    words = words_of(session, folder)
    begun = time.monotonic()
    before = _until_step(session, words, folder / "log.jsonl", size["killed_after"])
    first = max((number for number, _ in numbered(folder)), default=0)  # the step that is resumed after
    text = session.output_of([*words, "--resume", "auto"], 300)
    after = {step["iteration"]: step for step in read_steps(folder / "log.jsonl")}
    seconds = time.monotonic() - begun
    if sorted(after) != list(range(1, size["iterations"] + 1)):
        raise PartFailed(f"the resumed run has {len(after)} of {size['iterations']} steps", last_lines(text))
    twice = [step for step in before if step["iteration"] > first]
    if not (first and twice):
        raise PartFailed(f"killed after step {len(before)} and resumed after {first}: no step was made twice")
    apart = max(_apart(step, after[step["iteration"]]) for step in twice)
    peaks = {name: max(step["peak_mb"].get(name, 0) for step in after.values()) for name in after[1]["peak_mb"]}
    summary = f"{size['iterations']} steps, killed and resumed, in {seconds:.0f} s; {len(twice)} made twice, "
    summary += f"losses {apart:.1e} apart"
    found = Finding(f"{summary}; peak {', '.join(f'{mb} MB of {name}' for name, mb in peaks.items())}")
    if apart > MOST_APART:
        raise PartFailed(f"{found.summary}: the resumed run is another one")
    return found


def random_weights(session: Session) -> Path:
    """The folder of a full-size model with random weights, written on the device by the first part that needs it."""
    folder = session.folder / "sd21"
    if not (folder / "model_index.json").is_file():
        session.output_of(["-m", "benchmarks.random_sd21", str(folder), "--device", session.device], 120)
    return folder


def words_of(session: Session, folder: Path) -> list[str]:
    """The command line of the run."""
    size = {name: value for name, value in (TINY if session.is_tiny else FULL).items() if name != "killed_after"}
    model = ROOT / "assets" / "toy-prior" if session.is_tiny else random_weights(session)
    settings: dict[str, Any] = {
        "opt": ROOT / "configs" / "prompt.yaml", "model_key": model, "text": "a red mug", "device": session.device,
        "model_path": folder, **EARLY, **size, **(TINY_RUN if session.is_tiny else {}),
    }  # fmt: skip
    return [str(ROOT / "train.py"), *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def _until_step(session: Session, words: list[str], log: Path, step: int) -> list[dict[str, Any]]:
    """Runs until a step is logged, then kills; the steps so far. Raises PartFailed for a run that ends before."""
    process = session.start(words)
    try:
        while len(made := read_steps(log) if log.is_file() else []) < step:
            if process.poll() is not None or session.left_s() <= 0:
                why = "ended" if process.returncode is not None else "ran out of time"
                raise PartFailed(f"the run {why} after {len(made)} steps", last_lines(end(process)))
            time.sleep(POLL_S)
    finally:
        if process.returncode is None:
            end(process)
    return made


def _apart(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Of two records of a step: the relative difference of their losses."""
    one, other = a["loss"], b["loss"]
    return abs(one - other) / max(abs(one), abs(other), 1e-12)
