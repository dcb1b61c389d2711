# SPDX-License-Identifier: Apache-2.0
"""Compiles one .cu file to a shared library with nvcc, where there is one. Used by setup.py; never fails the build.

The library has a C ABI, links CUDA's runtime statically and needs no torch.
Every nvcc of the machine is tried, in the order in which torch looks for one, until one compiles the file. A CUDA
release newer than the one that torch was built with comes last, since the driver may be as old as torch needs it.
"""

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = (70, 75, 80, 86, 89, 90)
# No contraction: two kernels that compute the same thing get the same bits, and the same as the CPU.
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "--threads", "2", "-cudart", "static", "-shared", "-Xptxas", "-v",
         "-Xcompiler", "-fPIC,-fvisibility=hidden"]  # fmt: skip
REPORT_SUFFIX = ".txt"  # beside the library: what ptxas says of registers and spills, or why there is no library
SWITCH = "BUILD_CUDA"  # 0: no CUDA; 1: the build fails without it
HOME_VARIABLES = ("CUDA_HOME", "CUDA_PATH")
DEFAULT_HOMES = ("/usr/local/cuda", "/opt/cuda", "/usr/local/cuda-*")  # patterns
FIRST_RELEASE = (11, 7)  # the first with __grid_constant__
MAX_REASON = 300
MAX_VERSION_FILE = 1 << 16


class NotBuiltError(Exception):
    """Says in one sentence why there is no CUDA library."""


class Nvcc(NamedTuple):
    """One nvcc: its path and the CUDA release that it is of."""

    path: str
    release: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.path} of CUDA {self.release[0]}.{self.release[1]}"


def nvcc_paths() -> list[str]:
    """$CUDA_HOME, $CUDA_PATH, the PATH, the environment's own (conda), then where toolkits are installed by default."""
    named = [os.environ.get(name) for name in HOME_VARIABLES]
    defaults = [home for pattern in DEFAULT_HOMES for home in sorted(glob.glob(pattern), key=_numbers, reverse=True)]
    homes = [os.environ.get("CONDA_PREFIX"), sys.prefix, *defaults]
    found = [shutil.which("nvcc", path=f"{home}/bin") for home in named if home]
    found += [shutil.which("nvcc")]
    found += [shutil.which("nvcc", path=f"{home}/bin") for home in homes if home]
    by_file = {os.path.realpath(path): path for path in reversed(found) if path}  # the first name of each
    return [path for path in dict.fromkeys(found) if path and by_file[os.path.realpath(path)] == path]


def find_nvccs() -> list[Nvcc]:
    """Every nvcc that may compile the kernels, the one to try first first. Raises NotBuiltError when there is none."""
    if os.environ.get(SWITCH) == "0":
        raise NotBuiltError(f"built with {SWITCH}=0")
    paths = nvcc_paths()
    if not paths:
        raise NotBuiltError(
            "nvcc was not found when the package was built: install a CUDA toolkit, or set CUDA_HOME to its folder"
        )
    found = [Nvcc(path, release_of(path)) for path in paths]
    new_enough = [nvcc for nvcc in found if nvcc.release >= FIRST_RELEASE]
    if not new_enough:
        first = f"{FIRST_RELEASE[0]}.{FIRST_RELEASE[1]}"
        raise NotBuiltError(f"{found[0]} is older than CUDA {first}, which the kernels need: install a newer toolkit")
    of_torch = torch_release()
    return sorted(new_enough, key=lambda nvcc: of_torch is not None and nvcc.release[0] > of_torch[0])


def release_of(nvcc: str) -> tuple[int, int]:
    """The CUDA release that an nvcc is of; (0, 0) where it does not say."""
    told = _run([nvcc, "--version"]).stdout
    match = re.search(r"release (\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def torch_release() -> tuple[int, int] | None:
    """The CUDA release that the installed torch was built with, without importing it.

    None without torch or CUDA, and where pip isolates the build from it.
    """
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if version is None or not version.is_file():
        return None
    with version.open(encoding="utf-8") as file:
        match = re.search(r"^cuda\b.*=\s*'(\d+)\.(\d+)", file.read(MAX_VERSION_FILE), re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def find_archs(nvcc: str) -> list[int]:
    """Compute capabilities to compile for: those wanted that this nvcc knows. Raises NotBuiltError."""
    listed = _run([nvcc, "--list-gpu-arch"])
    archs = [a for a in ARCHITECTURES if f"compute_{a}" in listed.stdout.split()]
    if not archs:
        raise NotBuiltError(f"{nvcc} knows none of the compute capabilities {ARCHITECTURES}")
    return archs


def host_compilers() -> list[str]:
    """-ccbin arguments: nvcc's own choice, then each g++-N on the PATH, the newest first.

    An nvcc refuses host compilers that are newer than itself.
    """
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = {path.name: str(path) for folder in reversed(folders) for path in Path(folder).glob("g++-[0-9]*")}
    numbered = [path for name, path in found.items() if re.fullmatch(r"g\+\+-\d+", name)]
    return ["", *sorted(numbered, key=_numbers, reverse=True)]


def command(nvcc: str, archs: list[int], source: Path, target: Path, host_compiler: str = "") -> list[str]:
    """The one nvcc call: machine code for each architecture and PTX of the last for newer devices."""
    codes = [*[(a, f"sm_{a}") for a in archs], (archs[-1], f"compute_{archs[-1]}")]
    gencode = [f"-gencode=arch=compute_{a},code={code}" for a, code in codes]
    names = " ".join([*map(str, archs), f"{archs[-1]}-ptx"])
    host = ["-ccbin", host_compiler] if host_compiler else []
    return [nvcc, *FLAGS, *host, *gencode, f'-DCUDA_ARCHS="{names}"', str(source), "-o", str(target)]


def compile_with(nvcc: Nvcc, source: Path, target: Path) -> str:
    """Compiles and returns a line that says by what, and what ptxas reports. Raises NotBuiltError."""
    archs, reasons = find_archs(nvcc.path), []
    for host_compiler in host_compilers():
        result = _run(command(nvcc.path, archs, source, target, host_compiler))
        if result.returncode == 0:
            by = f" with {host_compiler}" if host_compiler else ""
            return f"compiled by {nvcc}{by} for {' '.join(map(str, archs))}{_driver_needed(nvcc)}\n{result.stderr}"
        reasons.append(_first_error(result.stderr))
    hint = ": install an older g++, such as g++-12, or a newer CUDA toolkit" if "unsupported" in reasons[0] else ""
    raise NotBuiltError(f"{nvcc} failed on {source.name} ({reasons[0]}){hint}")


def _driver_needed(nvcc: Nvcc) -> str:
    of_torch = torch_release()
    if of_torch is None or nvcc.release[0] <= of_torch[0]:
        return ""
    return f"; torch has CUDA {of_torch[0]}.{of_torch[1]}, the kernels need a driver for CUDA {nvcc.release[0]}"


def compile_library(source: Path, target: Path) -> str:
    """The report of the first nvcc that compiles the file. Raises NotBuiltError with what each said."""
    reasons = []
    for nvcc in find_nvccs():
        try:
            return compile_with(nvcc, source, target)
        except NotBuiltError as error:
            reasons.append(str(error))
    raise NotBuiltError("; ".join(reasons))


def build(source: Path, target: Path) -> None:
    """Writes the library to `target` and the compiler's report beside it, or only the reason why there is none."""
    target.unlink(missing_ok=True)
    report = target.with_suffix(REPORT_SUFFIX)
    try:
        told = compile_library(source, target)
    except NotBuiltError as error:
        target.unlink(missing_ok=True)
        report.write_text(f"{error}\n")
        if os.environ.get(SWITCH) == "1":
            raise SystemExit(f"{SWITCH}=1, but the CUDA kernels cannot be built: {error}") from None
        print(f"No CUDA in this build: {error}")
    else:
        report.write_text(told)
        print(f"CUDA: {source.name} {told.splitlines()[0]}")


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A finished call, also of a program that cannot be run."""
    try:
        return subprocess.run(arguments, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return subprocess.CompletedProcess(arguments, 1, "", str(error))


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error" in line.lower()), lines[0])[:MAX_REASON]


def _numbers(path: str) -> list[int]:
    """The numbers in a file's name, to compare versions by."""
    return [int(number) for number in re.findall(r"\d+", Path(path).name)]
