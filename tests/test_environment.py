# SPDX-License-Identifier: Apache-2.0
"""environment.yml and requirements.txt: everything is pinned, and what conda and pip are told to install is here."""

import re

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
