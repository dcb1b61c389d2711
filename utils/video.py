# SPDX-License-Identifier: Apache-2.0
"""H.264 video files that a browser plays, through the ffmpeg that imageio-ffmpeg bundles.

Frames are uint8 [H, W, 3] RGB. OpenCV's own writer is not used: its wheel cannot encode H.264.
"""

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Self

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image, ImageOps

from utils.general_utils import atomic_path
from utils.stop_signals import name_of

QUALITY = ["-crf", "18", "-preset", "veryfast"]
COLOURS = ["-x264-params", "colorprim=bt709:transfer=bt709:colormatrix=smpte170m"]
"""The matrix is what ffmpeg converts RGB by; without its name players take BT.709's from about 720 px on."""
REASONS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS)
"""What ffmpeg names in the line that matters, among others that only follow from it."""


class SegmentedVideo:
    """A video that grows over a run and is the same file whether the run was interrupted or not.

    State: the finished segments as H.264 bytes, SEGMENT frames each and encoded on their own, by one thread so that the
    bytes do not depend on the number of cores, and the frames of the segment that is not full yet, [F, H, W, 3]. The
    file at `path` is replaced as a whole when a segment is full and on `close`.
    """

    SEGMENT = 30
    GROWS = True  # the file, with each full segment

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
            if self.GROWS:
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
        """Continues where `state_dict` was taken."""
        stream, pending = state["stream"], state["pending"]
        self._stream = b"" if stream is None else stream.cpu().numpy().tobytes()
        self._frames = [] if pending is None else list(pending.cpu().numpy())
        self.frames = state["frames"]
        size_px = state["size_px"]
        self._size_px = None if size_px is None else (size_px[0], size_px[1])

    def _encoded(self) -> bytes:
        """The pending frames as a closed piece of H.264; no B frames, so that pieces can be put one behind another."""
        if not self._frames:
            return b""
        height, width = self._frames[0].shape[:2]
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self.fps), "-i", "-"]
        codec = ["-c:v", "libx264", "-threads", "1", "-bf", "0", *QUALITY, *COLOURS, "-pix_fmt", "yuv420p"]
        return _ffmpeg([*source, *codec, "-f", "h264", "-"], b"".join(frame.tobytes() for frame in self._frames))

    def _write(self, stream: bytes) -> None:
        source = ["-f", "h264", "-framerate", str(self.fps), "-i", "-"]
        # An open file and no name: an ffmpeg that outlives this process could make the name again beside a resumed run.
        with atomic_path(self.path) as temporary, temporary.open("rb+") as file:
            target = ["-movflags", "+faststart", "-f", "mp4", "-y", f"/dev/fd/{file.fileno()}"]
            _ffmpeg([*source, "-c", "copy", *target], stream, file.fileno())


class VideoWriter(SegmentedVideo):
    """A video whose file is written when the `with` block ends, unless by an exception. Raises OSError."""

    GROWS = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.close()


def read_video(path: Path) -> np.ndarray:
    """All frames of a video as uint8 [F, H, W, 3]. Raises ValueError, one line, for another file."""
    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        width, height = next(reader)["size"]
        return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    except (OSError, ValueError):  # ffmpeg's whole output, or no frame
        raise ValueError(f"{path} is not a video that ffmpeg can read; give an .mp4 file.") from None


def _ffmpeg(words: list[str], given: bytes, *files: int) -> bytes:
    """Runs ffmpeg on bytes, with the open `files` of these numbers. Raises OSError, one line, when it fails.

    It does not get the terminal's Ctrl-C. SIGXFSZ stays ignored there too: a file too large is then an error.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *words]
    done = subprocess.run(
        command, input=given, capture_output=True, start_new_session=True, restore_signals=False, pass_fds=files
    )
    if done.returncode < 0:
        raise OSError(f"ffmpeg was ended by {name_of(-done.returncode)}")
    if done.returncode > 0:
        raise OSError(f"ffmpeg: {_reason(done.stderr.decode('utf-8', 'replace'), done.returncode)[:200]}")
    return done.stdout


def _reason(printed: str, status: int) -> str:
    """The line that says why ffmpeg failed."""
    lines = [re.sub(r"^\[[^\]]*\] *", "", line) for line in printed.splitlines() if line.strip()]
    reasons = (line for line in lines for number in REASONS if os.strerror(number) in line)
    return next(reasons, (lines or [f"exit status {status}"])[0])


def _fitted(frame: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """The frame scaled, with its aspect ratio kept, into the middle of width_px x height_px black pixels."""
    if frame.shape[:2] == (height_px, width_px):
        return frame
    return np.asarray(ImageOps.pad(Image.fromarray(frame), (width_px, height_px)))


def _even_sized(frame: np.ndarray) -> np.ndarray:
    """Repeats the last row or column where needed: 4:2:0 chroma wants even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
