# SPDX-License-Identifier: Apache-2.0
"""Compiles one .cu file to a shared library with nvcc, where there is one. Used by setup.py; never fails the build.

The library has a C ABI, links CUDA's runtime statically and needs no torch. simple-knn has a link to this file.
"""

import os
import shutil
import subprocess
from pathlib import Path

ARCHITECTURES = (70, 75, 80, 86, 89, 90)
# No contraction: two kernels that compute the same thing get the same bits, and the same as the CPU.
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "--threads", "2", "-cudart", "static", "-shared", "-Xptxas", "-v",
         "-Xcompiler", "-fPIC,-fvisibility=hidden"]  # fmt: skip
REPORT_SUFFIX = ".txt"  # beside the library: what ptxas says of registers and spills, or why there is no library
SWITCH = "BUILD_CUDA"


class NotBuiltError(Exception):
    """Says in one sentence why there is no CUDA library."""


def find_nvcc() -> str:
    """Path of nvcc: on PATH, or below $CUDA_HOME. Raises NotBuiltError."""
    if os.environ.get(SWITCH) == "0":
        raise NotBuiltError(f"built with {SWITCH}=0")
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)
    if nvcc is None:
        raise NotBuiltError("nvcc was not found when the package was built: put it on PATH or set CUDA_HOME")
    return nvcc


def find_archs(nvcc: str) -> list[int]:
    """Compute capabilities to compile for: those wanted that this nvcc knows. Raises NotBuiltError."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
    archs = [a for a in ARCHITECTURES if f"compute_{a}" in listed.stdout.split()]
    if not archs:
        raise NotBuiltError(f"{nvcc} knows none of the compute capabilities {ARCHITECTURES}")
    return archs


def command(nvcc: str, archs: list[int], source: Path, target: Path) -> list[str]:
    """The one nvcc call: machine code for each architecture and PTX of the last for newer devices."""
    codes = [*[(a, f"sm_{a}") for a in archs], (archs[-1], f"compute_{archs[-1]}")]
    gencode = [f"-gencode=arch=compute_{a},code={code}" for a, code in codes]
    names = " ".join([*map(str, archs), f"{archs[-1]}-ptx"])
    return [nvcc, *FLAGS, *gencode, f'-DCUDA_ARCHS="{names}"', str(source), "-o", str(target)]


def compile_library(source: Path, target: Path) -> str:
    """Compiles and returns what ptxas reports. Raises NotBuiltError."""
    nvcc = find_nvcc()
    archs = find_archs(nvcc)
    result = subprocess.run(command(nvcc, archs, source, target), capture_output=True, text=True)
    if result.returncode:
        raise NotBuiltError(f"nvcc failed on {source.name}: {result.stderr.strip()[:2000]}")
    print(f"CUDA: {source.name} compiled for {archs}")
    return result.stderr


def build(source: Path, target: Path) -> None:
    """Writes the library to `target` and the compiler's report beside it, or only the reason why there is none."""
    target.unlink(missing_ok=True)
    report = target.with_suffix(REPORT_SUFFIX)
    try:
        report.write_text(compile_library(source, target))
    except NotBuiltError as error:
        target.unlink(missing_ok=True)
        report.write_text(f"{error}\n")
        print(f"No CUDA in this build: {error}")
