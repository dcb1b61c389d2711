# SPDX-License-Identifier: Apache-2.0
"""H.264 video files that a browser plays, written frame by frame through the ffmpeg that imageio-ffmpeg bundles.

Frames are uint8 [H, W, 3] RGB. OpenCV's own writer is not used: its wheel cannot encode H.264.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np


class VideoWriter:
    """Writes frames to `path` as they come; the size is fixed by the first frame.

    The file is a fragmented MP4: what was written before a crash stays playable.
    """

    def __init__(self, path: Path, fps: int = 30) -> None:
        self.path, self.fps, self.frames = Path(path), fps, 0
        self._pipe: Generator[None, Any, None] | None = None

    def add(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 [H, W, 3]."""
        frame = _even_sized(frame)
        if self._pipe is None:
            self._pipe = self._open(frame.shape[1], frame.shape[0])
        self._pipe.send(np.ascontiguousarray(frame))
        self.frames += 1

    def _open(self, width_px: int, height_px: int) -> Generator[None, Any, None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        options = ["-crf", "18", "-preset", "veryfast", "-movflags", "frag_keyframe+empty_moov"]
        pipe = imageio_ffmpeg.write_frames(
            str(self.path),
            (width_px, height_px),
            fps=self.fps,
            codec="libx264",
            quality=None,
            macro_block_size=1,
            output_params=options,
        )
        pipe.send(None)
        return pipe

    def close(self) -> None:
        """Finishes the file; closing twice, or without a single frame, is allowed."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_video(path: Path) -> np.ndarray:
    """All frames of a video as uint8 [F, H, W, 3]."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def _even_sized(frame: np.ndarray) -> np.ndarray:
    """Repeats the last row or column where needed: 4:2:0 chroma wants even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
