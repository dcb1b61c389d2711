# SPDX-License-Identifier: Apache-2.0
"""environment.yml and requirements.txt: everything is pinned, and what conda and pip are told to install is here."""

import re
import subprocess

import pytest
import yaml

from tests.checkout import ROOT

ENVIRONMENT = (ROOT / "environment.yml").read_text()
PINS = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]


@pytest.mark.parametrize("line", [line for line in PINS if line])
def test_a_requirement_is_a_pin(line) -> None:
    assert re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", line) and not line.startswith("torchvision")


def test_what_environment_yml_installs_is_here() -> None:
    (entries,) = (entry["pip"] for entry in yaml.safe_load(ENVIRONMENT)["dependencies"] if isinstance(entry, dict))
    paths = [entry.removeprefix("-r ") for entry in entries]
    assert "requirements.txt" in paths and all((ROOT / path).exists() for path in paths)


def test_the_v100s_build_is_of_the_pinned_torch() -> None:
    (pin,) = (line.removeprefix("torch==") for line in PINS if line.startswith("torch=="))
    assert re.search(r"^ +# - --extra-index-url \S+/cu126$", ENVIRONMENT, re.MULTILINE)
    assert set(re.findall(r"torch (\S+)\+cu126", ENVIRONMENT)) == {pin}


@pytest.mark.parametrize(("nvcc", "stamp"), [("/usr/local/bin/nvcc", ".extensions"), ("", ".extensions-cpu")])
def test_setup_builds_the_extensions_again_once_nvcc_is_there(tmp_path, nvcc, stamp) -> None:
    """A build without it left another stamp."""
    (tmp_path / ".requirements").touch()
    (tmp_path / ".extensions-cpu").touch()
    words = ["make", "-n", "setup", f"VENV={tmp_path}", f"NVCC={nvcc}"]
    planned = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("--force-reinstall" in planned) == bool(nvcc) and (f"touch {tmp_path}/{stamp}\n" in planned) == bool(nvcc)


@pytest.mark.parametrize(("words", "told"), [
    (["VENV=my venv"], 'VENV="my venv" holds a space or is empty'),
    (["VENV="], 'VENV="" holds a space or is empty'),
    (["VENV=FOLDER/venv", "PYTHON=/nonexistent"], "PYTHON=/nonexistent is no program: install Python 3.11 or pass PYTHON="),
    (["VENV=FOLDER/venv", "PYTHON="], "PYTHON=python3 is no program"),
])  # fmt: skip
def test_make_refuses_an_environment_that_it_cannot_make(tmp_path, words, told) -> None:
    given = [word.replace("FOLDER", str(tmp_path)) for word in words]
    made = subprocess.run(["make", "setup", *given], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 2 and told in made.stdout + made.stderr and not list(tmp_path.iterdir())
