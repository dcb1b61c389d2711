# SPDX-License-Identifier: Apache-2.0
"""Small tools of the Gaussian model: logit, rotations, covariances, learning-rate schedules, atomic files."""

import errno
import fcntl
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


def inverse_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Logit of x in (0, 1)."""
    return torch.log(x / (1 - x))


def get_expon_lr_func(lr_init: float, lr_final: float, max_steps: int) -> Callable[[int], float]:
    """Log-linear schedule: lr_init at step 0, lr_final from max_steps on, 0 before; between them 0 if an end is 0."""

    def rate(step: int) -> float:
        if step < 0:
            return 0.0
        s = min(step / max_steps, 1.0)
        if lr_init == 0.0 or lr_final == 0.0:
            return {0.0: lr_init, 1.0: lr_final}.get(s, 0.0)
        return math.exp(math.log(lr_init) * (1 - s) + math.log(lr_final) * s)

    return rate


def build_rotation(quaternions: torch.Tensor) -> torch.Tensor:
    """Rotation matrices of quaternions (w, x, y, z) [N, 4], normalised here -> [N, 3, 3]."""
    length = torch.sqrt((quaternions * quaternions).sum(dim=-1, keepdim=True))
    w, x, y, z = (quaternions / length).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def build_covariance(scales: torch.Tensor, quaternions: torch.Tensor) -> torch.Tensor:
    """Upper triangle (xx, xy, xz, yy, yz, zz) of R S S R^T. scales [N, 3], quaternions [N, 4] wxyz -> [N, 6]."""
    factor = build_rotation(quaternions) * scales.unsqueeze(1)  # [N, 3, 3]
    covariance = factor @ factor.transpose(1, 2)
    return torch.stack([covariance[:, row, column] for row in range(3) for column in range(row, 3)], dim=1)


def all_finite(x: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite; by the sum, which is ten times faster, unless that overflows."""
    return math.isfinite(float(x.detach().sum())) or bool(x.isfinite().all())


def finite_rows(x: torch.Tensor) -> torch.Tensor:
    """[B] bool of x [B, ...]: the row holds no NaN or infinity; by its largest and least number, which NaN would be."""
    rows = x.flatten(1)
    return rows.amax(dim=1).isfinite() & rows.amin(dim=1).isfinite()


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Name of the first tensor with a NaN or an infinity, None without one; reads one number when all is well."""
    sums = [x.detach().sum() for x in tensors.values() if x.numel()]
    if not sums or math.isfinite(float(torch.stack(sums).sum())):
        return None
    return next((name for name, x in tensors.items() if not all_finite(x)), None)


PART = r"\.[a-z0-9_]{8}\.part"
"""How the name of a file that is being written ends: "." and the name of the whole one stand before it."""
LONGEST_NAME = 255
"""Bytes, of most file systems."""


def part_start(name: str) -> str:
    """How the name of the temporary file of `name` begins: with as much of that as leaves room for what follows."""
    room = LONGEST_NAME - len("..01234567.part")
    encoded = os.fsencode(name)
    return f".{name}." if len(encoded) <= room else f".{encoded[:room].decode('utf-8', 'ignore')}."


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises OSError where no file can be written at `path`, before the work that gives its content. Leaves nothing."""
    target = Path(path)
    folder = target.parent
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        while not folder.exists():
            folder = folder.parent
        for name in target.relative_to(folder).parts:
            with suppress(FileNotFoundError):
                (folder / name).lstat()  # a name too long, or below a file
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error  # in place of the temporary file's name


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """The whole text, in UTF-8, or what was there before; its folder is made. Raises OSError."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed, on failure it is removed.

    A reader therefore sees the old file or the whole new one, never a half. The temporary file is locked (flock) while
    it is written, so that a killed process's file is distinguishable from one in use. Raises OSError, and writes
    nothing, where another folder has the place of `path`'s meanwhile.
    """
    target = Path(path)
    with suppress(FileNotFoundError):
        target.lstat()  # a name that is too long is refused before it is cut for the temporary file
    target.parent.mkdir(parents=True, exist_ok=True)
    with _open_folder(target.parent) as folder:  # open, so that a new folder cannot have its number
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=part_start(target.name), suffix=".part")
        temporary = Path(name)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; outputs are meant to be handed on
            if not os.path.samestat(os.fstat(folder), os.stat(target.parent)):
                raise OSError(f"{target.parent} was moved while {target.name} was written, and another has its place")
            os.replace(temporary, target)
            with suppress(OSError):  # the rename survives a loss of power, where the file system can do that
                os.fsync(folder)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                error.filename = str(target)  # of a full disk one wants to know which
            raise
        finally:
            os.close(handle)


@contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def is_being_written(part: Path) -> bool:
    """Whether a process has the temporary file of an `atomic_path` open."""
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_parts(path: Path) -> None:
    """Removes what killed processes have left of `path`: temporary files of `atomic_path` that nobody writes."""
    name = re.compile(re.escape(part_start(path.name).removesuffix(".")) + PART)
    with suppress(OSError):  # no such folder
        for part in path.parent.iterdir():
            if name.fullmatch(part.name) and not is_being_written(part):
                part.unlink(missing_ok=True)
