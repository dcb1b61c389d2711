# SPDX-License-Identifier: Apache-2.0
"""H.264 video files that a browser plays, through the ffmpeg that imageio-ffmpeg bundles.

Frames are uint8 [H, W, 3] RGB. OpenCV's own writer is not used: its wheel cannot encode H.264.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import torch

from utils.general_utils import atomic_path
from utils.stop_signals import name_of

QUALITY = ["-crf", "18", "-preset", "veryfast"]
MAX_TOLD_BYTES = 1 << 16
REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS)
"""What ffmpeg names in the line that matters, among others that only follow from it."""


class VideoWriter:
    """Writes frames as they come; the size is fixed by the first. The file is at `path` once the `with` block ends.

    After an exception in the block nothing is there, or what was there before. Raises OSError.
    """

    def __init__(self, path: Path, fps: int = 30) -> None:
        self.path, self.fps, self.frames = Path(path), fps, 0
        self._opened = ExitStack()
        self._encoder: Encoder | None = None

    def add(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 [H, W, 3]."""
        frame = _even_sized(frame)
        if self._encoder is None:
            temporary = self._opened.enter_context(atomic_path(self.path))
            self._encoder = self._opened.enter_context(self._open(temporary, frame.shape[1], frame.shape[0]))
        self._encoder.write(frame.tobytes())
        self.frames += 1

    def _open(self, temporary: Path, width_px: int, height_px: int) -> Encoder:
        codec = ["-c:v", "libx264", *QUALITY, "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
        return Encoder([*_raw_frames(width_px, height_px, self.fps), *codec, "-y", str(temporary)])

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)


class Encoder:
    """An ffmpeg that reads what is written here. Leaving the `with` block waits for it. Raises OSError of one line."""

    def __init__(self, words: list[str]) -> None:
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process = _start_ffmpeg(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._told)

    def write(self, data: bytes) -> None:
        """Raises OSError when ffmpeg has ended; the reason follows as the block ends."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            raise OSError(self._end() or "ffmpeg ended before the last frame") from None

    def _end(self) -> str:
        """Waits for ffmpeg; why it failed, "" when it did not."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._told.seek(0)
        return _failure(self._process.returncode, self._told.read(MAX_TOLD_BYTES))

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None:
            self._process.kill()
        with self._told:
            failure = self._end()
        if failure and kind is None:
            raise OSError(failure)


class SegmentedVideo:
    """A video that grows over a run and is the same file whether the run was interrupted or not.

    Remembers the finished segments as H.264 bytes, SEGMENT frames each and encoded on their own, by one thread so that
    no machine's core count shows, and the frames of the segment that is not full yet, [F, H, W, 3]. The file at `path`
    is replaced as a whole when a segment is full and on `close`.
    """

    SEGMENT = 30

    def __init__(self, path: Path, fps: int = 30) -> None:
        self.path, self.fps = Path(path), fps
        self._stream, self._frames = b"", list[np.ndarray]()
        self._size_px: tuple[int, int] | None = None  # (W, H) of every frame: the first one's
        self.frames = 0

    def add(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 [H, W, 3], scaled to the first one's size if it has another.

        Raises OSError when the file cannot be written; the frame is kept.
        """
        frame = _even_sized(frame)
        self._size_px = self._size_px or (frame.shape[1], frame.shape[0])
        self._frames.append(_fitted(frame, *self._size_px))
        self.frames += 1
        if len(self._frames) >= self.SEGMENT:
            self._stream, self._frames = self._stream + self._encoded(), []
            self._write(self._stream)

    def close(self) -> None:
        """Writes the file with every frame added so far; without one there is no file. More may be added."""
        if self.frames:
            self._write(self._stream + self._encoded())

    def state_dict(self) -> dict[str, Any]:
        """All frames so far, encoded or not."""
        pending = torch.from_numpy(np.stack(self._frames)) if self._frames else None
        stream = torch.frombuffer(bytearray(self._stream), dtype=torch.uint8) if self._stream else None
        size_px = None if self._size_px is None else list(self._size_px)
        return {"frames": self.frames, "size_px": size_px, "stream": stream, "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; checkpoints of earlier versions do not tell the size."""
        stream, pending = state["stream"], state["pending"]
        self._stream = b"" if stream is None else stream.cpu().numpy().tobytes()
        self._frames = [] if pending is None else list(pending.cpu().numpy())
        self.frames = state["frames"]
        size_px = state.get("size_px") or (self._stored_size_px() if self.frames else None)
        self._size_px = None if size_px is None else (size_px[0], size_px[1])

    def _stored_size_px(self) -> tuple[int, int]:
        """(W, H) of the first pending frame, or of the first encoded one."""
        if self._frames:
            return self._frames[0].shape[1], self._frames[0].shape[0]
        words = ["-f", "h264", "-i", "-", "-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "-"]
        first = cv2.imdecode(np.frombuffer(_ffmpeg(words, self._stream), np.uint8), cv2.IMREAD_COLOR)
        return first.shape[1], first.shape[0]

    def _encoded(self) -> bytes:
        """The pending frames as a closed piece of H.264; no B frames, so that pieces can be put one behind another."""
        if not self._frames:
            return b""
        height, width = self._frames[0].shape[:2]
        source = _raw_frames(width, height, self.fps)
        codec = ["-c:v", "libx264", "-threads", "1", "-bf", "0", *QUALITY, "-pix_fmt", "yuv420p", "-f", "h264", "-"]
        return _ffmpeg([*source, *codec], b"".join(frame.tobytes() for frame in self._frames))

    def _write(self, stream: bytes) -> None:
        source = ["-f", "h264", "-framerate", str(self.fps), "-i", "-"]
        with atomic_path(self.path) as temporary:
            _ffmpeg([*source, "-c", "copy", "-movflags", "+faststart", "-f", "mp4", "-y", str(temporary)], stream)


def read_video(path: Path) -> np.ndarray:
    """All frames of a video as uint8 [F, H, W, 3]."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def _raw_frames(width_px: int, height_px: int, fps: int) -> list[str]:
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width_px}x{height_px}", "-r", str(fps), "-i", "-"]


def _ffmpeg(words: list[str], given: bytes) -> bytes:
    """Runs ffmpeg on bytes. Raises OSError, one line, when it fails."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = _start_ffmpeg(words, **pipes)
    done, told = process.communicate(given)
    if failure := _failure(process.returncode, told):
        raise OSError(failure)
    return done


def _start_ffmpeg(words: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
    """Out of reach of the terminal's Ctrl-C. SIGXFSZ stays ignored there too: a file too large is then an error."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *words]
    return subprocess.Popen(command, start_new_session=True, restore_signals=False, **pipes)


def _failure(status: int, told: bytes) -> str:
    """Why ffmpeg failed, in one line; "" when it did not."""
    if status == 0:
        return ""
    if status < 0:
        return f"ffmpeg was ended by {name_of(-status)}"
    text = told.decode("utf-8", "replace")
    lines = [re.sub(r"^\[[^\]]*\] *", "", line) for line in text.splitlines() if line.strip()]
    reasons = (line for line in lines for number in REASONS if os.strerror(number) in line)
    return f"ffmpeg: {next(reasons, (lines or [f'exit status {status}'])[0])[:200]}"


def _fitted(frame: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """The frame scaled, with its aspect ratio kept, into the middle of width_px x height_px black pixels."""
    height, width = frame.shape[:2]
    if (width, height) == (width_px, height_px):
        return frame
    scale = min(width_px / width, height_px / height)
    inner = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (width_px - inner[0]) // 2, (height_px - inner[1]) // 2
    canvas = np.zeros((height_px, width_px, 3), np.uint8)
    scaled = cv2.resize(frame, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    canvas[top : top + inner[1], left : left + inner[0]] = scaled
    return canvas


def _even_sized(frame: np.ndarray) -> np.ndarray:
    """Repeats the last row or column where needed: 4:2:0 chroma wants even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
