# SPDX-License-Identifier: Apache-2.0
"""The files of a run folder that a visitor may see or download: a closed list, found by name and number."""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from arguments.yaml_file import read_yaml
from guidance.panel import COLUMNS, MARGIN_PX
from trainer.run_records import is_count, read_regular

SHOWN = ("rgb", "x0_guided")
"""Columns of a guidance panel that the page shows: the rendered views, and the prior's prediction."""
PANEL, TURNTABLE = "train_process/iter_K.png", "videos/K_iteration/video_rgb_K.mp4"
REGION_MAP, SCENE = "cograd/regions_K.png", "point_cloud/iteration_K/point_cloud.ply"
"""Where `newest` finds the guidance panels, the turntables, the maps of CoGrad's regions and the saved Gaussians."""
FRONT_VIEW = "test_six_views/K_iteration/render_view_0.png"
"""A test view from the front, of which a thumbnail is made."""
THUMBNAIL_PX = 160
MAX_PANEL_BYTES, MAX_PANEL_PIXELS = 1 << 26, 1 << 26


@dataclass(frozen=True)
class OutputFile:
    """A file, the step it shows, and when it was written: a run that starts again writes the same names."""

    path: Path
    step: int
    written_ns: int


def newest(folder: Path, pattern: str) -> OutputFile | None:
    """The file with the highest number of those that match `pattern`, in which K stands for the number."""
    number = re.compile(re.escape(pattern).replace("K", r"(\d{1,9})", 1).replace("K", r"\d{1,9}"))
    best: tuple[int, Path] | None = None
    for path in folder.glob(pattern.replace("K", "*")):
        match = number.fullmatch(path.relative_to(folder).as_posix())
        if match and path.is_file() and not path.is_symlink() and (best is None or int(match[1]) > best[0]):
            best = int(match[1]), path
    try:
        return best and OutputFile(best[1], best[0], best[1].stat().st_mtime_ns)
    except OSError:  # it has just gone
        return None


def preview_png(folder: Path) -> bytes | None:
    """SHOWN of the newest panel as a PNG: a row for each, a column a view. None without a panel that can be read."""
    found = newest(folder, PANEL)
    image = None if found is None else _read_png(found.path)
    if image is None:
        return None
    width_px = (image.shape[1] - MARGIN_PX) // len(COLUMNS) - MARGIN_PX
    views = max(1, round((image.shape[0] - MARGIN_PX) / (max(width_px, 1) * _aspect(folder) + MARGIN_PX)))
    height_px = (image.shape[0] - MARGIN_PX) // views - MARGIN_PX
    if min(width_px, height_px) < 1:
        return None
    rows = []
    for name in SHOWN:
        left = MARGIN_PX + COLUMNS.index(name) * (width_px + MARGIN_PX)
        tops = [MARGIN_PX + view * (height_px + MARGIN_PX) for view in range(views)]
        rows.append(np.hstack([image[top : top + height_px, left : left + width_px] for top in tops]))
    return cv2.imencode(".png", np.vstack(rows))[1].tobytes()


def newest_thumbnail(folder: Path) -> OutputFile | None:
    """What `thumbnail_png` shows."""
    return newest(folder, FRONT_VIEW) or newest(folder, PANEL)


def thumbnail_png(folder: Path) -> bytes | None:
    """A square PNG: the newest view from the front, else the first rendered view of the newest panel."""
    found = newest_thumbnail(folder)
    image = None if found is None else _read_png(found.path)
    if image is None:
        return None
    if found is not None and found.path.parent.name == Path(PANEL).parent.name:
        side_px = min((image.shape[1] - MARGIN_PX) // len(COLUMNS) - MARGIN_PX, image.shape[0] - 2 * MARGIN_PX)
        if side_px < 1:
            return None
        image = image[MARGIN_PX : MARGIN_PX + side_px, MARGIN_PX : MARGIN_PX + side_px]
    side_px = min(image.shape[:2])
    top, left = (image.shape[0] - side_px) // 2, (image.shape[1] - side_px) // 2
    square = image[top : top + side_px, left : left + side_px]
    small = cv2.resize(square, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", small)[1].tobytes()


def _read_png(path: Path) -> np.ndarray | None:
    """A PNG file as uint8 [H, W, 3]; None for one that cannot be decoded, or is larger than any panel."""
    try:
        content = read_regular(path, MAX_PANEL_BYTES + 1)
    except OSError:
        return None
    width_px, height_px = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    is_png = content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR"
    if not is_png or len(content) > MAX_PANEL_BYTES or not 0 < width_px * height_px <= MAX_PANEL_PIXELS:
        return None
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None


def _aspect(folder: Path) -> float:
    """Height over width of the training images; 1 where config.yaml does not say."""
    cameras = read_yaml(str(folder / "config.yaml"))[0].get("GenerateCamParams")
    if not isinstance(cameras, dict):
        return 1.0
    height, width = cameras.get("image_h"), cameras.get("image_w")
    return height / width if is_count(height, 1) and is_count(width, 1) else 1.0
