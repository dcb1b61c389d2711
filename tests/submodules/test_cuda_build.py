# SPDX-License-Identifier: Apache-2.0
"""The CUDA part of the installation: what the compiler reported, and that no nvcc or a failing one stops nothing."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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


WORKS = 'for last; do :; done; echo "$0" > "$last"'
"""A stub's answer to the compiling call: the library holds the path of the stub."""


def stub_nvcc(folder: Path, script: str = WORKS, release: str = "12.4") -> Path:
    """An nvcc in `folder` of a CUDA release that lists three architectures and else runs `script`."""
    folder.mkdir(parents=True, exist_ok=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(f"""#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {release}, V{release}.99"; exit;;
--list-gpu-arch) printf "compute_75\\ncompute_90\\ncompute_100\\n"; exit;;
esac
{script}
""")
    nvcc.chmod(0o755)
    return nvcc


def stub_host_compilers(folder: Path, *versions: int) -> None:
    for version in versions:
        (folder / f"g++-{version}").write_text("#!/bin/sh\n")


def accepts_up_to(version: int) -> str:
    """A script of a stub that refuses hosts newer than g++-`version`; its own choice is g++-15."""
    older = "|".join(f"*g++-{v}" for v in range(9, version + 1))
    return f"""host=g++-15
while [ "$1" ]; do [ "$1" = -ccbin ] && host="$2"; last="$1"; shift; done
case "$host" in
{older}) echo "$host" > "$last";;
*) echo "host_config.h(143): error: -- unsupported GNU version! gcc versions later than {version} are not supported!" >&2; exit 1;;
esac"""


@pytest.fixture
def machine(cuda_build, monkeypatch, tmp_path):
    """A machine without CUDA: no nvcc on the PATH, in the environment or where toolkits are installed; torch is not seen."""
    for name in (*cuda_build.HOME_VARIABLES, "CONDA_PREFIX", cuda_build.SWITCH):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(cuda_build.sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(cuda_build, "DEFAULT_HOMES", (str(tmp_path / "usr-local/cuda"), str(tmp_path / "usr-local/cuda-*")))
    monkeypatch.setattr(cuda_build, "torch_release", lambda: None)
    return tmp_path


def build(cuda_build, folder: Path) -> str:
    """Builds into `folder`, where an earlier build left a library; returns the text beside the library."""
    target = folder / "_cuda_kernels.so"
    target.write_text("of an earlier build")
    cuda_build.build(SOURCE, target)
    return target.with_suffix(".txt").read_text()


def built_by(folder: Path) -> str:
    """What the stub that made the library wrote into it."""
    return (folder / "_cuda_kernels.so").read_text().strip()


def test_no_kernel_spills():
    """Neither spills nor stack in any kernel, for every architecture of the installed build."""
    kernels, why = cuda_report.installed_report()
    if why:
        pytest.skip(f"no CUDA code to look at: {why}")
    assert {k.name for k in kernels} >= {"blend", "blend_backward", "project"}
    assert [k for k in kernels if not k.stays_in_registers] == []
    own = [k for k in kernels if not k.name.startswith("DeviceRadixSort")]  # cub chooses its own block sizes
    assert len(own) < len(kernels)
    assert all(0 < k.registers <= 128 for k in own)


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


PLACES = {  # of an nvcc: (environment variable or None, its value, folder of the nvcc), below the machine's folder
    "CUDA_HOME": ("CUDA_HOME", "home", "home/bin"),
    "CUDA_PATH": ("CUDA_PATH", "cuda-path", "cuda-path/bin"),
    "PATH": (None, "", "path"),
    "conda": ("CONDA_PREFIX", "conda", "conda/bin"),
    "environment": (None, "", "prefix/bin"),
    "/usr/local/cuda": (None, "", "usr-local/cuda/bin"),
    "/usr/local/cuda-12.4": (None, "", "usr-local/cuda-12.4/bin"),
}


def put_nvcc(machine: Path, monkeypatch, place: str, **options: str) -> Path:
    variable, value, folder = PLACES[place]
    if variable:
        monkeypatch.setenv(variable, str(machine / value))
    return stub_nvcc(machine / folder, **options)


@pytest.mark.parametrize("place", PLACES)
def test_nvcc_is_found_wherever_torch_or_conda_have_it(cuda_build, machine, monkeypatch, place):
    nvcc = put_nvcc(machine, monkeypatch, place)
    assert build(cuda_build, machine).startswith(f"compiled by {nvcc} of CUDA 12.4 for 75 90\n")
    assert built_by(machine) == str(nvcc)


def test_places_are_tried_in_torchs_order_until_one_compiles(cuda_build, machine, monkeypatch):
    """Each place's nvcc fails but the last; those before it have been tried, in order."""
    attempts = machine / "attempts"
    fails = f'echo "$0" >> {attempts}; echo "error: no" >&2; exit 1'
    *failing, last = PLACES
    before = [put_nvcc(machine, monkeypatch, place, script=fails) for place in failing]
    nvcc = put_nvcc(machine, monkeypatch, last)
    build(cuda_build, machine)
    assert attempts.read_text().split() == [str(path) for path in before] and built_by(machine) == str(nvcc)


def test_of_several_versioned_folders_the_newest_comes_first(cuda_build, machine):
    for version in ("9.2", "12.4", "11.8"):
        stub_nvcc(machine / f"usr-local/cuda-{version}/bin", release=version)
    build(cuda_build, machine)
    assert built_by(machine) == str(machine / "usr-local/cuda-12.4/bin/nvcc")


def test_two_names_of_one_nvcc_are_tried_once(cuda_build, machine):
    stub_nvcc(machine / "usr-local/cuda-12.4/bin")
    (machine / "usr-local/cuda").symlink_to(machine / "usr-local/cuda-12.4")
    assert cuda_build.nvcc_paths() == [str(machine / "usr-local/cuda/bin/nvcc")]


def test_a_toolkit_too_old_is_passed_over(cuda_build, machine, monkeypatch):
    """Ubuntu's own nvcc 11.5 is on the PATH, a newer one in /usr/local/cuda."""
    old = put_nvcc(machine, monkeypatch, "PATH", release="11.5")
    expected = f"{old} of CUDA 11.5 is older than CUDA 11.7, which the kernels need: install a newer toolkit\n"
    assert build(cuda_build, machine) == expected
    new = put_nvcc(machine, monkeypatch, "/usr/local/cuda")
    build(cuda_build, machine)
    assert built_by(machine) == str(new)


@pytest.mark.parametrize(("of_torch", "chosen"), [(None, "13.0"), ((13, 0), "13.0"), ((12, 6), "12.4"), ((11, 8), "13.0")])
def test_a_toolkit_newer_than_torchs_cuda_comes_last(cuda_build, machine, monkeypatch, of_torch, chosen):
    places = {"13.0": put_nvcc(machine, monkeypatch, "PATH", release="13.0"), "12.4": put_nvcc(machine, monkeypatch, "conda")}
    monkeypatch.setattr(cuda_build, "torch_release", lambda: of_torch)
    told = build(cuda_build, machine)
    assert built_by(machine) == str(places[chosen])
    needs = "; torch has CUDA 11.8, the kernels need a driver for CUDA 13" if of_torch == (11, 8) else ""
    assert told.splitlines()[0].endswith(f"for 75 90{needs}")


@pytest.mark.parametrize(("line", "release"), [("cuda: Optional[str] = '12.6'", (12, 6)), ("cuda: Optional[str] = None", None)])
def test_torchs_cuda_is_read_without_importing_it(cuda_build, monkeypatch, tmp_path, line, release):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "torch/version.py").write_text(f"__all__ = ['cuda']\n{line}\nhip: Optional[str] = None\n")
    found = SimpleNamespace(origin=str(tmp_path / "torch/__init__.py"))
    monkeypatch.setattr(cuda_build.importlib.util, "find_spec", lambda name: found)
    assert cuda_build.torch_release() == release


def test_an_older_host_compiler_is_used_where_nvcc_refuses_the_newest(cuda_build, machine, monkeypatch):
    put_nvcc(machine, monkeypatch, "PATH", script=accepts_up_to(13))
    stub_host_compilers(machine / "path", 9, 12, 13, 14)
    told = build(cuda_build, machine)
    assert built_by(machine) == str(machine / "path/g++-13")
    assert told.startswith(f"compiled by {machine}/path/nvcc of CUDA 12.4 with {machine}/path/g++-13 for 75 90\n")


def test_without_a_host_compiler_that_nvcc_accepts_the_reason_says_which_to_install(cuda_build, machine, monkeypatch):
    put_nvcc(machine, monkeypatch, "PATH", script=accepts_up_to(13))
    stub_host_compilers(machine / "path", 14)
    told = build(cuda_build, machine)
    assert "unsupported GNU version! gcc versions later than 13" in told and "install an older g++" in told
    assert told.count("\n") == 1 and not (machine / "_cuda_kernels.so").exists()


def test_without_nvcc_the_reason_is_left(cuda_build, machine):
    text = build(cuda_build, machine)
    expected = "nvcc was not found when the package was built: install a CUDA toolkit, or set CUDA_HOME to its folder\n"
    assert text == expected and not (machine / "_cuda_kernels.so").exists()


def test_cuda_can_be_switched_off(cuda_build, machine, monkeypatch):
    put_nvcc(machine, monkeypatch, "PATH")
    monkeypatch.setenv("BUILD_CUDA", "0")
    assert build(cuda_build, machine) == "built with BUILD_CUDA=0\n" and not (machine / "_cuda_kernels.so").exists()


def test_cuda_can_be_demanded(cuda_build, machine, monkeypatch):
    monkeypatch.setenv("BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match="BUILD_CUDA=1, but the CUDA kernels cannot be built: nvcc was not found"):
        build(cuda_build, machine)


@pytest.mark.parametrize("script", ["echo 'a.cu(3): error: no such thing' >&2; exit 1", "exit 1", "kill -9 $$"])
def test_a_failing_nvcc_fails_nothing(cuda_build, machine, monkeypatch, script):
    nvcc = put_nvcc(machine, monkeypatch, "PATH", script=script)
    text = build(cuda_build, machine)
    reason = "a.cu(3): error: no such thing" if "echo" in script else "no message"
    assert text == f"{nvcc} of CUDA 12.4 failed on cuda_api.cu ({reason})\n"
    assert not (machine / "_cuda_kernels.so").exists()


def test_one_call_compiles_for_the_archs_that_nvcc_knows(cuda_build, machine, monkeypatch):
    put_nvcc(machine, monkeypatch, "CUDA_HOME", script='echo "$@" >&2')
    call = build(cuda_build, machine)
    assert "-gencode=arch=compute_75,code=sm_75 -gencode=arch=compute_90,code=sm_90" in call
    assert 'arch=compute_90,code=compute_90 -DCUDA_ARCHS="75 90 90-ptx"' in call
    assert "sm_100" not in call and "-fmad=false" in call


def test_the_package_says_in_one_line_what_was_built():
    done = subprocess.run([sys.executable, "-m", cuda_report.PACKAGE], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"{cuda_report.PACKAGE}: CPU.*, (CUDA for [\d ]+-ptx|no CUDA kernels: .+)\n", done.stdout)
