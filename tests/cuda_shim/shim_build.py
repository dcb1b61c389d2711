# SPDX-License-Identifier: Apache-2.0
"""Compiles .cu files with g++ against the shim, once for every state of the sources, and steers the shim.

    library = load(RASTERIZER, "rasterizer"); shuffle(library, 3)
"""

import ctypes
import faulthandler
import hashlib
import os
import platform
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUBMODULES = HERE.parents[1] / "submodules"
RASTERIZER = SUBMODULES / "diff-gaussian-rasterization" / "csrc" / "cuda_api.cu"
FAULTY = HERE / "faulty.cu"
SLOT_SUMS = HERE / "slot_sums.cu"
# The flags that decide about arithmetic are those of the real builds.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
         "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]  # fmt: skip
CHILD_LIMIT_S = 120  # a loop bound read too early may be any number
SUPPORTED = platform.machine().lower() in ("x86_64", "amd64")


def compiler_command(source: Path, target: Path, *extra: str) -> list[str]:
    """The call that compiles one .cu file and the shim to `target`."""
    compiler = os.environ.get("CXX", "g++")
    return [compiler, *FLAGS, *extra, "-I", str(HERE), "-x", "c++", str(source), str(HERE / "cuda_shim.cpp"),
            "-o", str(target)]  # fmt: skip


def compiled(source: Path) -> Path:
    """Path of the shim library of one .cu file, compiled unless a file of these very sources is there already."""
    folders = {source.parent, HERE, RASTERIZER.parent}  # slot_sums.cu includes a header of the rasterizer
    inputs = sorted(p for f in folders for kind in ("*.cu", "*.cuh", "*.h", "*.cpp") for p in f.rglob(kind))
    digest = hashlib.sha256(repr(FLAGS).encode() + b"".join(p.read_bytes() for p in inputs)).hexdigest()[:16]
    target = HERE / "build" / f"{source.stem}_{digest}.so"
    if not target.is_file():
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        subprocess.run(compiler_command(source, partial), check=True)
        partial.rename(target)  # another process may have been faster
    return target


def steer(library: ctypes.CDLL) -> ctypes.CDLL:
    """Sets the argument types of the shim's own functions."""
    library.cuda_shim_shuffle.argtypes = [ctypes.c_uint64]
    library.cuda_shim_skip.argtypes = [ctypes.c_char_p]
    library.cuda_shim_barriers.restype = ctypes.c_char_p
    return library


@contextmanager
def shuffled(library: ctypes.CDLL, seed: int):
    """Blocks, warps and lanes run in the order of `seed` (0 = natural)."""
    library.cuda_shim_shuffle(seed)
    try:
        yield
    finally:
        library.cuda_shim_shuffle(0)


def barriers(library: ctypes.CDLL) -> list[str]:
    """ "file:line" of every barrier passed so far."""
    return library.cuda_shim_barriers().decode().split()


def caught(library: ctypes.CDLL, barrier: str, is_right) -> bool:
    """Whether a run without `barrier` is noticed: `is_right()` false, an error or a crash. Runs in a forked child."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # a crash is what is looked for: no stack of it on the terminal
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(CHILD_LIMIT_S)
        library.cuda_shim_skip(barrier.encode())
        try:
            os._exit(0 if is_right() else 1)
        except BaseException:
            os._exit(2)
    return os.waitpid(child, 0)[1] != 0
