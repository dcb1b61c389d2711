# SPDX-License-Identifier: Apache-2.0
"""What the environment's checker says: of pins and of pip's answers; pip itself is not run."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tools import check_environment as check

INDEX = "https://packages.example/cu126"
REAL = (check.ROOT / "environment.yml").read_text()


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
    assert "pulls in torchvision; leave out what requires it" in finding.what and finding.state == "wrong"


def test_the_exit_status_and_the_count(capsys) -> None:
    packages = [TORCH, {"name": "numpy", "version": "2"}]
    assert check.main([], answering(packages=packages)) == 0
    told = capsys.readouterr().out
    assert "ok: requirements.txt resolves with pip's own indexes: 2 packages, torch 2.13.0" in told
    assert told.splitlines()[-1] == "3 ok, 0 wrong, 1 not checked"
    assert check.main([], answering(error="ERROR: no")) == 1
