# SPDX-License-Identifier: Apache-2.0
"""The CUDA part of the installation: what the compiler reported, and that no nvcc or a failing one stops nothing."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from diff_gaussian_rasterization import backend
from tools import cuda_report

SUBMODULES = Path(__file__).resolve().parents[2] / "submodules"
SOURCE = SUBMODULES / "diff-gaussian-rasterization" / "csrc" / "cuda_api.cu"


@pytest.fixture(scope="module")
def cuda_build():
    spec = importlib.util.spec_from_file_location("cuda_build", SOURCE.parents[1] / "cuda_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_nvcc(folder: Path, script: str) -> None:
    """An nvcc that lists two architectures and else runs `script`."""
    nvcc = folder / "nvcc"
    nvcc.write_text(f'#!/bin/sh\n[ "$1" = --list-gpu-arch ] && echo "compute_75\ncompute_90\ncompute_100" && exit\n{script}\n')
    nvcc.chmod(0o755)


def build(cuda_build, monkeypatch, folder: Path, **environment: str) -> str:
    """Builds into `folder` with only the given environment; returns the text beside the library."""
    for name in ("CUDA_HOME", cuda_build.SWITCH):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    target = folder / "_cuda_kernels.so"
    target.write_text("of an earlier build")
    cuda_build.build(SOURCE, target)
    return target.with_suffix(".txt").read_text()


@pytest.mark.parametrize("package", cuda_report.LIBRARIES)
def test_no_kernel_spills(package):
    """Neither spills nor stack in any kernel, for every architecture of the installed build."""
    kernels, why = cuda_report.installed_report(package)
    if why:
        pytest.skip(f"no CUDA code to look at: {why}")
    assert {k.name for k in kernels} >= ({"blend", "blend_backward", "project"} if "gauss" in package else {"search"})
    assert [k for k in kernels if not k.stays_in_registers] == []
    assert all(0 < k.registers <= 128 for k in kernels)


def test_report_is_read_as_ptxas_writes_it():
    text = """ptxas info    : Compiling entry function '_ZN3dgr5blendE8DgrBatchNS_5FrameE' for 'sm_80'
ptxas info    : Function properties for _ZN3dgr5blendE8DgrBatchNS_5FrameE
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 16640 bytes smem, 1368 bytes cmem[0]
"""
    assert cuda_report.parse(text) == [cuda_report.Kernel("blend", "sm_80", 48, 8, 16, 16640)]
    assert not cuda_report.parse(text)[0].stays_in_registers


def test_backend_tells_what_is_built_or_why_not():
    report = backend()
    if report["cuda"] is None:
        assert report["why_no_cuda"]
    else:
        assert report["why_no_cuda"] is None and report["cuda"][-1].endswith("-ptx")


def test_without_nvcc_the_reason_is_left(cuda_build, monkeypatch, tmp_path):
    text = build(cuda_build, monkeypatch, tmp_path, PATH=str(tmp_path))
    assert text == "nvcc was not found when the package was built: put it on PATH or set CUDA_HOME\n"
    assert not (tmp_path / "_cuda_kernels.so").exists()


def test_cuda_can_be_switched_off(cuda_build, monkeypatch, tmp_path):
    fake_nvcc(tmp_path, "exit 1")
    assert build(cuda_build, monkeypatch, tmp_path, PATH=str(tmp_path), BUILD_CUDA="0") == "built with BUILD_CUDA=0\n"


def test_a_failing_nvcc_fails_nothing(cuda_build, monkeypatch, tmp_path):
    fake_nvcc(tmp_path, "echo 'error: no such thing' >&2; exit 1")
    text = build(cuda_build, monkeypatch, tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert text == "nvcc failed on cuda_api.cu: error: no such thing\n"
    assert not (tmp_path / "_cuda_kernels.so").exists()


def test_one_call_compiles_for_the_archs_that_nvcc_knows(cuda_build, monkeypatch, tmp_path):
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    fake_nvcc(home / "bin", 'echo "$@" >&2')
    call = build(cuda_build, monkeypatch, tmp_path, PATH=os.path.dirname(shutil.which("sh")), CUDA_HOME=str(home))
    assert "-gencode=arch=compute_75,code=sm_75 -gencode=arch=compute_90,code=sm_90" in call
    assert 'arch=compute_90,code=compute_90 -DCUDA_ARCHS="75 90 90-ptx"' in call
    assert "sm_100" not in call and "-fmad=false" in call
