# SPDX-License-Identifier: Apache-2.0
"""Compiles the CUDA kernels for sm_70 (V100), which CUDA 13's nvcc no longer knows, with the NVRTC of CUDA 12.9.

    python tools/compile_sm70.py FOLDER_WITH_NVRTC OUTPUT_FOLDER        # `make cuda-sm70` fetches it from PyPI

Checks that the kernels compile and fit; a library for a V100 is built by setup.py with the nvcc of CUDA 12, which is
then for sm_70 too. Exit status 1 and a sentence where it cannot.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import ctypes
import tempfile

from tools import cuda_report

SOURCES = Path(__file__).resolve().parents[1] / "submodules" / "diff-gaussian-rasterization" / "csrc"
ARCH = "sm_70"
FILES = ("cuda_project.cuh", "cuda_bin.cuh", "cuda_blend.cuh")
# The ABI's host functions are only declared; 161 is the compiler's number for their visibility pragmas.
OPTIONS = ["-std=c++17", "--fmad=false", "--ptxas-options=-v", "-default-device", "-diag-suppress=161"]
# NVRTC has no headers of the C library; the functions of math.h are built in.
HEADERS = {
    "stdint.h": "typedef signed char int8_t; typedef unsigned char uint8_t; typedef unsigned short uint16_t;\n"
    "typedef int int32_t; typedef unsigned uint32_t; typedef long long int64_t; typedef unsigned long long uint64_t;\n",
    "math.h": "#pragma once\n#define INFINITY __int_as_float(0x7f800000)\n",
}


class CannotCompileError(Exception):
    """Says in one sentence why there is no code for sm_70."""


def load_nvrtc(folder: Path) -> ctypes.CDLL:
    """NVRTC of CUDA 12 found anywhere below the folder. Raises CannotCompileError."""
    found = [p for p in sorted(folder.rglob("libnvrtc.so.12*")) if "alt" not in p.name]
    if not found:
        install = f"pip install --target {folder} nvidia-cuda-nvrtc-cu12"
        raise CannotCompileError(f"no libnvrtc.so.12 below {folder}: {install}")
    try:
        return ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise CannotCompileError(f"{found[0].name} cannot be loaded: {error}") from None


def text_of(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """The program's log or machine code: nvrtcGet<what> after nvrtcGet<what>Size."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw


def compile_kernels(nvrtc: ctypes.CDLL) -> tuple[bytes, str]:
    """Machine code and the compiler's report. Raises CannotCompileError with the log."""
    source = "".join(f'#include "{name}"\n' for name in FILES).encode()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    with tempfile.TemporaryDirectory() as headers:
        for name, text in HEADERS.items():
            (Path(headers) / name).write_text(text)
        options = [f"-arch={ARCH}", *OPTIONS, f"-I{SOURCES}", f"-I{headers}"]
        encoded = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        code = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    log = text_of(nvrtc, program, "ProgramLog").rstrip(b"\0").decode()
    if code:
        raise CannotCompileError(f"NVRTC failed on {', '.join(FILES)}:\n{log}")
    return text_of(nvrtc, program, "CUBIN"), log


@program.refuses("compile_sm70", OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 compiled, 1 not compiled, 2 bad input."""
    parser = program.parser(__doc__)
    parser.add_argument("nvrtc", type=Path, metavar="FOLDER_WITH_NVRTC")
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    args = parser.parse_args(argv)
    output = args.output
    output.mkdir(parents=True, exist_ok=True)
    try:
        nvrtc = load_nvrtc(args.nvrtc)
        cubin, log = compile_kernels(nvrtc)
        target = output / f"rasterizer_{ARCH}.cubin"
        target.write_bytes(cubin)
        print(f"{target}: {len(cubin)} bytes\n{cuda_report.table(cuda_report.parse(log))}")
    except CannotCompileError as error:
        print(f"Not compiled for {ARCH}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    program.run(main)
