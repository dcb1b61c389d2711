# SPDX-License-Identifier: Apache-2.0
"""Both packages build by clang++ without a warning, and that build computes the same bits as the installed one."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUBMODULES = Path(__file__).resolve().parents[2] / "submodules"
PACKAGES = {"diff-gaussian-rasterization": "diff_gaussian_rasterization", "simple-knn": "simple_knn"}


def digests(path: Path | None = None) -> dict:
    """What digests.py prints with the installed packages, or with those in `path`."""
    environ = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    command = [sys.executable, str(Path(__file__).with_name("digests.py"))]
    return json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)


def built_by(compiler: str, folder: Path) -> Path:
    """A folder with both packages, compiled by `compiler` with warnings as errors; nothing is written elsewhere."""
    sources, target = folder / "submodules", folder / "site"
    shutil.copytree(SUBMODULES, sources, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    environ = {**os.environ, "CXX": f"{compiler} -Werror", "BUILD_CUDA": "0"}
    for name, module in PACKAGES.items():
        shutil.copytree(sources / name / module, target / module)
        command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(target), "--build-temp", str(folder / name)]
        done = subprocess.run(command, cwd=sources / name, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("package", PACKAGES.values())
def test_a_library_serves_every_torch_and_python(package):
    """It loads where there is neither: nothing of torch or of Python is linked in."""
    [library] = [path for path in Path(importlib.import_module(package).__file__).parent.glob("*.so") if "cuda" not in path.name]
    code = f"import ctypes, sys; ctypes.CDLL({str(library)!r}); print(open('/proc/self/maps').read())"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert library.name in loaded and "libtorch" not in loaded and "libc10" not in loaded
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed and "libpython" not in needed and "libtorch" not in needed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ is not installed")
def test_clang_gives_the_same_bits(tmp_path):
    installed, built = digests(), digests(built_by("clang++", tmp_path))
    assert Path(built["package"]).is_relative_to(tmp_path) and not Path(installed["package"]).is_relative_to(tmp_path)
    assert "base" in built["digests"] and built["digests"] == installed["digests"]
