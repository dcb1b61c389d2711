# SPDX-License-Identifier: Apache-2.0
"""Builds the torch-free shared library with the C++ compiler ($CXX, else g++) and packs it beside the Python code."""

import os
import platform
import shlex
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-pthread",
         "-Wall", "-Wextra"]  # fmt: skip


class BuildLibrary(build_ext):
    """One plain compiler call; a failure shows the call and what to install."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        source = Path(__file__).resolve().parent / "csrc" / "neighbours.cpp"
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        flags = [*FLAGS, *(["-DKNN_X86_CLONES"] if x86 else [])]
        command = [*shlex.split(os.environ.get("CXX", "g++")), *flags, "-shared", str(source), "-o", str(target)]
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
    ext_modules=[Extension("simple_knn._neighbours", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel},
)
