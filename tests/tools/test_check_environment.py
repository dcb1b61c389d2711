# SPDX-License-Identifier: Apache-2.0
"""What the environment's checker says: of pins, of pip's answers, and of the code in a library; pip itself is not run."""

import json
import struct
import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tools import check_environment as check
from tools.cuda_architectures import MACHINE, PTX, Code, code_in

INDEX = "https://packages.example/cu126"
REAL = (check.ROOT / "environment.yml").read_text()


def fat_binary(*entries: tuple[int, int], payload: int = 24) -> bytes:
    """As nvcc writes it: (kind, architecture) of each entry."""
    body = b"".join(
        struct.pack("<HHIQIIHHI", kind, 0x101, 64, payload, 0, 0, 0, 0, arch) + bytes(32) + b"\x7f" * payload
        for kind, arch in entries
    )
    return struct.pack("<4sHHQ", b"\x50\xed\x55\xba", 1, 16, len(body)) + body


def metadata(version: str, *requires: str) -> str:
    return "".join(
        f"{line}\n"
        for line in (
            "Metadata-Version: 2.1",
            "Name: torch",
            f"Version: {version}",
            *(f"Requires-Dist: {r}" for r in requires),
        )
    )


def answering(versions: str = "", packages=(), error: str = ""):
    """A pip that gives these answers; remembers what it was asked."""
    asked = []

    def run(words, plain=False):
        asked.append((list(words), plain))
        if words[0] == "index":
            return subprocess.CompletedProcess(
                words, 0, f"torch\nAvailable versions: {versions}\n" if versions else "", ""
            )
        if not error:
            report = {"install": [{"metadata": package} for package in packages]}
            Path(words[words.index("--report") + 1]).write_text(json.dumps(report))
        return subprocess.CompletedProcess(words, 1 if error else 0, "", error)

    run.asked = asked
    return run


TORCH = {
    "name": "torch",
    "version": "2.13.0",
    "requires_dist": ['cuda-toolkit[cublas,cudart]==13.0.3; platform_system == "Linux"'],
}
CU126 = {
    "name": "torch",
    "version": "2.13.0+cu126",
    "requires_dist": ["nvidia-cudnn-cu12==9.1; platform_system == 'Linux'"],
}


def test_the_files_here_are_pinned_and_whole() -> None:
    found = check.check_files(yaml.safe_load(REAL), (check.ROOT / "requirements.txt").read_text())
    assert [f.state for f in found] == ["ok"], found
    assert check.volta_index(REAL).endswith("cu126")


def test_what_is_loose_or_gone_is_told(tmp_path) -> None:
    environment = {
        "dependencies": ["python=3.11", {"pip": ["--extra-index-url x", "-r gone.txt", "./submodules/none"]}]
    }
    found = [str(f).strip() for f in check.check_files(environment, "torch>=2\nnumpy==2.4.6\n", tmp_path)]
    assert found == [
        "wrong: requirements.txt: 'torch>=2' is no pin such as name==1.2",
        "wrong: environment.yml installs gone.txt, which is not here",
        "wrong: environment.yml installs ./submodules/none, which is not here",
        "wrong: environment.yml does not install requirements.txt",
    ]


@pytest.mark.parametrize(
    ("torch", "for_volta", "told"),
    [
        (TORCH, False, "ok: torch 2.13.0 is built with CUDA 13, which dropped sm_70"),
        (TORCH, True, "wrong: torch 2.13.0 for the V100 is built with CUDA 13, which has no sm_70"),
        (CU126, True, "ok: torch 2.13.0+cu126 is built with CUDA 12, which has sm_70"),
        ({"version": "2.13.0+cpu"}, False, "not checked: torch 2.13.0+cpu is a CPU build, by this machine's configuration of pip; where it is not so configured it is another"),
    ],
)  # fmt: skip
def test_the_cuda_of_a_build(torch, for_volta, told) -> None:
    assert str(check.check_cuda(torch, for_volta)).strip() == told


def test_an_index_that_does_not_answer_is_not_passed() -> None:
    run = answering()
    assert (
        str(check.check_index(INDEX, "2.13.0", run)).strip()
        == f"not checked: {INDEX}, the V100's index, cannot be reached from here, or has no torch"
    )
    ((words, plain),) = run.asked
    assert plain and INDEX in words  # no other index may answer for it


def test_an_index_without_the_pinned_version_is_wrong() -> None:
    found = check.check_index(INDEX, "2.13.0", answering("2.15.0+cu126, 2.13.0+cpu"))
    assert (
        str(found).strip()
        == f"wrong: {INDEX} has no torch 2.13.0 but 2.15.0+cu126, 2.13.0+cpu; change the pin or the index"
    )


def test_the_volta_variant_is_resolved_where_its_index_answers(tmp_path) -> None:
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    environment = f"pip:\n      # - --extra-index-url {INDEX}\n"
    found = check.check_volta(environment, tmp_path / "requirements.txt", answering("2.13.0+cu126", [CU126]))
    assert [f.state for f in found] == ["ok"] * 3 and "sm_70" in found[-1].what
    found = check.check_volta(environment, tmp_path / "requirements.txt", answering("2.13.0+cu126", [TORCH]))
    assert [f.state for f in found] == ["ok", "ok", "wrong"]
    assert check.check_volta("", tmp_path / "requirements.txt")[0].state == "wrong"


def test_what_pip_cannot_resolve_or_should_not_is_wrong() -> None:
    finding, torch = check.resolve(
        Path("requirements.txt"), answering(error="WARNING: x\nERROR: No matching distribution found for torch==9")
    )
    assert (
        torch is None
        and str(finding).strip()
        == "wrong: requirements.txt with pip's own indexes: No matching distribution found for torch==9"
    )
    finding, _ = check.resolve(
        Path("requirements.txt"), answering(packages=[TORCH, {"name": "torchvision", "version": "1"}])
    )
    assert "pulls in torchvision; leave out what asks for it" in finding.what and finding.state == "wrong"


def test_code_is_found_among_other_bytes() -> None:
    stray = b"\x50\xed\x55\xba" + bytes(40)  # the number by chance
    library = (
        b"ELF"
        + stray
        + fat_binary((MACHINE, 80), (MACHINE, 90), (PTX, 90))
        + b"--"
        + fat_binary((MACHINE, 80), (MACHINE, 75))
    )
    code = code_in(library)
    assert (code.machine, code.ptx) == (Counter({80: 2, 90: 1, 75: 1}), Counter({90: 1}))
    assert code_in(fat_binary((MACHINE, 80))[:20]) == code_in(b"") == Code(Counter(), Counter())


def test_who_runs_what() -> None:
    code = Code(Counter({75: 449, 80: 449, 86: 449, 90: 453, 89: 1}), Counter())
    assert str(code) == "sm_75, sm_80, sm_86, sm_90"  # one kernel for sm_89 is no support
    assert [code.runs_on(a) for a in (70, 75, 80, 86, 89, 90, 100)] == [False, True, True, True, True, True, False]
    assert Code(Counter({80: 1}), Counter({90: 1})).runs_on(120) and str(Code(Counter(), Counter())) == "no GPU"


def test_the_projects_own_kernels_are_read() -> None:
    """As nvcc built them here; a machine without nvcc has none."""
    import diff_gaussian_rasterization

    library = Path(diff_gaussian_rasterization.__file__).parent / "_cuda_kernels.so"
    if not library.is_file():
        pytest.skip("the CUDA kernels were not built here")
    code = code_in(library.read_bytes())
    assert code.runs_on(80) and code.runs_on(90)


def test_a_wheel(tmp_path) -> None:
    path = tmp_path / "torch-2.13.0.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("torch-2.13.0.dist-info/METADATA", metadata("2.13.0", "cuda-toolkit[cublas]==13.0.3"))
        wheel.writestr(check.LIBRARY, fat_binary((MACHINE, 75), (MACHINE, 90)))
    told = [str(f).strip() for f in check.check_wheel(path)]
    assert told[:3] == [
        "ok: torch 2.13.0 is built with CUDA 13, which dropped sm_70",
        "ok: torch-2.13.0.whl holds code for sm_75, sm_90",
        "ok: V100 (sm_70) does not run it, and needs the V100's variant",
    ]
    assert "wrong: A100 (sm_80) does not run it" in told


def test_a_wheel_of_the_cpu_and_no_wheel(tmp_path) -> None:
    path = tmp_path / "cpu.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("torch-2.13.0.dist-info/METADATA", metadata("2.13.0+cpu"))
    assert [f.state for f in check.check_wheel(path)] == ["not checked"]
    with pytest.raises(
        ValueError, match=r"gone.whl cannot be read as a wheel .* pip download --no-deps torch gets one"
    ):
        check.check_wheel(tmp_path / "gone.whl")
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be read as a wheel"):
        check.check_wheel(path)


def test_the_exit_status_and_the_count(capsys) -> None:
    packages = [TORCH, {"name": "numpy", "version": "2"}]
    assert check.main([], answering(packages=packages)) == 0
    told = capsys.readouterr().out
    assert "ok: requirements.txt resolves with pip's own indexes: 2 packages, torch 2.13.0" in told
    assert told.splitlines()[-1] == "3 ok, 0 wrong, 2 not checked"
    assert check.main(["--wheel", "gone.whl"], answering(packages=packages)) == 1
