# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds that a visitor may see or take: a closed list, found by name and number."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from arguments.yaml_file import read_yaml
from guidance.panel import COLUMNS, MARGIN_PX

SHOWN = ("rgb", "x0_guided")
"""Columns of a guidance panel that the page shows: what was rendered, and what the prior would have there."""
_EXPORTING = threading.Lock()


@dataclass(frozen=True)
class Found:
    """A file and the step it shows."""

    path: Path
    step: int


def newest(folder: Path, pattern: str) -> Found | None:
    """The file with the highest number of those that match `pattern`, in which K stands for the number."""
    number = re.compile(re.escape(pattern).replace("K", r"(\d{1,9})", 1).replace("K", r"\d{1,9}"))
    best: Found | None = None
    for path in folder.glob(pattern.replace("K", "*")):
        match = number.fullmatch(path.relative_to(folder).as_posix())
        if match and path.is_file() and not path.is_symlink() and (best is None or int(match[1]) > best.step):
            best = Found(path, int(match[1]))
    return best


def panel(folder: Path) -> Found | None:
    """The newest picture of what the guidance saw and asked for."""
    return newest(folder, "train_process/iter_K.png")


def turntable(folder: Path) -> Found | None:
    """The newest turntable video."""
    return newest(folder, "videos/K_iteration/video_rgb_K.mp4")


def region_map(folder: Path) -> Found | None:
    """The newest map of CoGrad's regions."""
    return newest(folder, "cograd/regions_K.png")


def scene(folder: Path) -> Found | None:
    """The newest saved Gaussians."""
    return newest(folder, "point_cloud/iteration_K/point_cloud.ply")


def preview_png(folder: Path) -> bytes | None:
    """SHOWN of the newest panel as a PNG: a row for each, a column a view. None without a panel that can be read."""
    found = panel(folder)
    picture = None if found is None else cv2.imread(str(found.path))
    if found is None or picture is None:
        return None
    width_px = (picture.shape[1] - MARGIN_PX) // len(COLUMNS) - MARGIN_PX
    views = max(1, round((picture.shape[0] - MARGIN_PX) / (width_px * _aspect(folder) + MARGIN_PX)))
    height_px = (picture.shape[0] - MARGIN_PX) // views - MARGIN_PX
    rows = []
    for name in SHOWN:
        left = MARGIN_PX + COLUMNS.index(name) * (width_px + MARGIN_PX)
        tops = [MARGIN_PX + view * (height_px + MARGIN_PX) for view in range(views)]
        rows.append(np.hstack([picture[top : top + height_px, left : left + width_px] for top in tops]))
    return cv2.imencode(".png", np.vstack(rows))[1].tobytes()


def _aspect(folder: Path) -> float:
    """Height over width of the training pictures."""
    cameras = read_yaml(str(folder / "config.yaml"))[0].get("GenerateCamParams", {})
    try:
        return float(cameras["image_h"]) / float(cameras["image_w"])
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return 1.0


def formats() -> dict[str, str]:
    """Format of an export -> what it is, in a line."""
    from tools.exporting import FORMATS  # late: it takes seconds to import

    return {name: format.told for name, format in FORMATS.items()}


def exported(folder: Path, format: str) -> Path:
    """The newest scene in that format, made at the first call. May take a minute. Raises ValueError and OSError."""
    from tools.exporting import FORMATS, export

    if format not in FORMATS:
        raise ValueError(f"{format!r} is no export format; expected one of {', '.join(FORMATS)}")
    found = scene(folder)
    if found is None:
        raise ValueError(f"{folder.name} has saved no scene yet; wait for its first half")
    out = folder / "export" / f"{folder.name}_{found.step}.{format}"
    with _EXPORTING:  # one at a time: each takes all cores, and two visitors may ask for the same
        if not (out.is_file() and out.stat().st_mtime >= found.path.stat().st_mtime):
            out.parent.mkdir(exist_ok=True)
            export(folder, format, out)
    return out
