# SPDX-License-Identifier: Apache-2.0
"""Images of a finished run for reports, kept in its folder report/, and as HTML."""

from pathlib import Path

import numpy as np

from evaluation.pages import image, jpeg, video_file
from evaluation.run_folder import config_of_run, gaussians_of_run, orbit
from utils.device import resolve_device
from utils.image_utils import read_png
from utils.video import VideoWriter

FRAMES, FPS, SIDES = 48, 12, 8
FOLDER = "report"  # of a run folder
TURNTABLE, VIEWS = "turntable.mp4", "views.jpg"


def draw(run: Path, view_px: int) -> None:
    """report/turntable.mp4, and report/views.jpg: eight sides in a row, the front first."""
    config = config_of_run(run)
    frames = orbit(gaussians_of_run(run, config, resolve_device(config.device)), config, FRAMES, view_px)
    (run / FOLDER).mkdir(exist_ok=True)
    (run / FOLDER / VIEWS).write_bytes(jpeg(np.hstack(list(frames[:: FRAMES // SIDES]))))
    with VideoWriter(run / FOLDER / TURNTABLE, FPS) as video:
        for frame in frames:
            video.add(frame)


def turntable_html(run: Path, alt: str) -> str:
    """The turntable, with the front as its poster."""
    views = read_png(run / FOLDER / VIEWS)
    return video_file(run / FOLDER / TURNTABLE, jpeg(views[:, : views.shape[1] // SIDES]), alt)


def views_html(run: Path, alt: str) -> str:
    """The eight sides."""
    return image((run / FOLDER / VIEWS).read_bytes(), alt)
