# SPDX-License-Identifier: Apache-2.0
"""Run folders as the web page and the tools read them: every file of one is somebody else's."""

import json
import math
import tempfile
from pathlib import Path

import cv2
import numpy as np
from hypothesis import strategies as st

from apps.web import outputs
from apps.web.job import Job, State
from apps.web.progress import clock, curve
from apps.web.run_panel import _svg
from evaluation.comparison.folder import read_cameras
from evaluation.run_folder import record_of_run
from tests.fuzzing.engine import CORPUS, LawBroken, Target
from tests.fuzzing.mutations import damaged

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-")) / "run"
FILES = ("config.yaml", "run.json", "log.jsonl", "console.txt", "cameras.json", "train_process/iter_7.png")
STEP = {"iteration": 3, "loss": 0.5, "points": 60, "phase_ms": {"render": 2.5, "backward": 4}}
PNG = cv2.imencode(".png", np.arange(30 * 90 * 3, dtype=np.uint8).reshape(30, 90, 3))[1].tobytes()
CAMERA = {"id": 0, "width": 32, "height": 32, "position": [0, 0, 3], "rotation": np.eye(3).tolist(), "fx": 40, "fy": 40}
GOOD = {
    "config.yaml": b"GuidanceParams: {text: a red mug}\nOptimizationParams: {iterations: 9}\nGenerateCamParams: {image_h: 8, image_w: 8}\n",
    "run.json": json.dumps({"started_utc": "2026-01-01", "finished_utc": "2026-01-02", "seed": 0}).encode(),
    "log.jsonl": b"".join(json.dumps(STEP | {"iteration": k, "loss": 1 / k}).encode() + b"\n" for k in range(1, 9)),
    "console.txt": b"Training\rtrain.py: the disk is full\n",
    "cameras.json": json.dumps([CAMERA]).encode(),
    "train_process/iter_7.png": PNG,
}
DEEP = [
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"9" * 400,
    b"1e400",
    b"-1",
    b"NaN",
    b"Infinity",
    b"null",
    b'"abc"',
    b"true",
    b"1" * 5000,
]
TOKENS = [*DEEP, b'"points":', b'"loss":', b'"iteration":', b'"phase_ms":', b"{", b"}", b"[", b"]", b"\n", b"\0", b"iterations: ", b"text: "]  # fmt: skip
WHOLE = [*DEEP, b"", b"[]", b"{}", b"\xff\xfe", json.dumps(STEP | {"points": "abc"}).encode() + b"\n"]


def law(given: tuple[str, bytes]) -> bool:
    """A page that can be drawn, with finite numbers; True when the run is readable and has made a step."""
    name, content = given
    for file in FILES:
        path = FOLDER / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if file == name else GOOD[file])
    job = Job(FOLDER)
    progress = job.progress()
    if not (0 <= progress.step <= progress.steps and 0 <= progress.step / progress.steps <= 1):
        raise LawBroken(f"step {progress.step} of {progress.steps}")
    for number in (progress.loss, progress.seconds_left, *(loss for _, loss in curve(job.log.losses))):
        if number is not None and not math.isfinite(number):
            raise LawBroken(f"{number} would be shown")
    f"{progress.points or 0:,}{clock(progress.seconds_left or 0)}{_svg(curve(job.log.losses))}"
    if (job.state is State.UNREADABLE) != bool(job.unreadable) or len(job.outcome()) > 20_000 or len(job.prompt) > 5000:
        raise LawBroken(f"{job.state} with {job.outcome()[:100]!r}")
    outputs.preview_png(FOLDER)
    outputs.thumbnail_png(FOLDER)
    for read, file in ((record_of_run, FOLDER), (read_cameras, FOLDER / "cameras.json")):
        try:
            read(file)
        except ValueError as error:
            if str(FOLDER) not in str(error) or len(str(error)) > 2000:
                raise LawBroken(f"no sentence: {str(error)[:200]!r}") from error
    return job.state is not State.UNREADABLE and progress.step > 0


def _read(path: Path) -> tuple[str, bytes]:
    """NAME__what.ext stands for the file NAME.ext of a run folder."""
    name = path.name.partition("__")[0] + path.suffix
    return next(file for file in FILES if file.endswith(name)), path.read_bytes()


def _contents(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    seeds = [
        GOOD[name],
        *(content for file, content in map(_read, sorted((CORPUS / "run_folder").iterdir())) if file == name),
    ]
    return st.tuples(st.just(name), damaged(seeds, TOKENS) | st.sampled_from(WHOLE))


RUN_FOLDER = Target("run_folder", st.one_of([_contents(name) for name in FILES]), law, _read)
