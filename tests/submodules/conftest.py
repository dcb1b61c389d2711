# SPDX-License-Identifier: Apache-2.0
"""Paths of this folder's helpers, and the CUDA kernels compiled for a CPU (tests/cuda_shim) as a second backend."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "cuda_shim")]

import shim_build  # noqa: E402

from diff_gaussian_rasterization import _cuda  # noqa: E402


def compiled(source: Path) -> Path:
    """The .cu file as a shim library, or a skip where the shim cannot work."""
    if not shim_build.SUPPORTED:
        pytest.skip("the CUDA shim's stack switch is written for x86-64 only")
    return shim_build.compiled(source)


@pytest.fixture(scope="session")
def rasterizer_shim():
    """The rasterizer's CUDA library with its kernels executed on the CPU."""
    return shim_build.steer(_cuda.load(compiled(shim_build.RASTERIZER)))


@pytest.fixture
def cuda_kernels(rasterizer_shim, monkeypatch):
    """CPU tensors are rendered by the CUDA kernels; gives the library. Pair counts of earlier tests are forgotten."""
    monkeypatch.setattr(_cuda, "LIBRARY", rasterizer_shim)
    monkeypatch.setattr(_cuda, "DEVICE_TYPE", "cpu")
    monkeypatch.setattr(_cuda, "_usable", {})
    monkeypatch.setattr(_cuda, "_pairs", {})
    return rasterizer_shim


@pytest.fixture(params=["cpu", "cuda kernels"])
def each_backend(request):
    """Runs a test once with the CPU backend and once with the CUDA kernels."""
    if request.param != "cpu":
        request.getfixturevalue("cuda_kernels")
    return request.param
