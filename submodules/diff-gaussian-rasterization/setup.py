# SPDX-License-Identifier: Apache-2.0
"""Builds the torch-free shared libraries and packs them beside the Python code: with the C++ compiler ($CXX, else g++)
for the CPU, and with nvcc for CUDA where it is found (BUILD_CUDA=0 leaves CUDA out).

Nothing but setuptools is needed to build: the library has a C ABI, so one build serves every torch and Python version.
The hot loops are compiled once per x86-64 level and chosen at run time; elsewhere one plain build is made.
"""

import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cuda_build

FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC",
         "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-psabi"]  # fmt: skip
X86_LEVELS = {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
HOT_LOOPS = ["kernels_project", "kernels_blend"]
PLAIN = ["binning", "cpu_api", "workers"]


def compile_jobs(source_dir: Path, build_dir: Path) -> list[tuple[list[str], Path]]:
    """Returns (arguments, object file) for every translation unit."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    common = [*FLAGS, *(["-DDGR_X86_LEVELS"] if x86 else [])]
    jobs = []
    for isa, march in {"base": [], **(X86_LEVELS if x86 else {})}.items():
        for name in HOT_LOOPS:
            target = build_dir / f"{name}_{isa}.o"
            jobs.append(([*common, *march, f"-DDGR_ISA={isa}", "-c", str(source_dir / f"{name}.cpp")], target))
    for name in PLAIN:
        jobs.append(([*common, "-c", str(source_dir / f"{name}.cpp")], build_dir / f"{name}.o"))
    return jobs


class BuildLibrary(build_ext):
    """Compiles with plain compiler calls; a failure shows the call and what to install."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        source_dir = Path(__file__).resolve().parent / "csrc"
        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        jobs = compile_jobs(source_dir, build_dir)
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            cuda = workers.submit(cuda_build.build, source_dir / "cuda_api.cu", target.with_name("_cuda_kernels.so"))
            list(workers.map(lambda job: self.compiler_call([*job[0], "-o", str(job[1])]), jobs))
            cuda.result()
        self.compiler_call(["-shared", "-pthread", "-o", str(target), *[str(output) for _, output in jobs]])

    def compiler_call(self, arguments: list[str]) -> None:
        command = [*shlex.split(os.environ.get("CXX", "g++")), *arguments]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise SystemExit(f"C++ compiler {command[0]!r} not found: install g++ or point CXX to a compiler") from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{shlex.join(command)}\nfailed:\n{error.stderr}") from None


class AnyPythonWheel(bdist_wheel):
    """The library does not link to Python, so the wheel is for any Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("diff_gaussian_rasterization._cpu", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel},
)
