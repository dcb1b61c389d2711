# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from arguments.command_line import build_parser
from arguments.exit_codes import MEANING

PAGE = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("code", "meaning"), MEANING.items())
def test_help_and_the_page_tell_every_status(code, meaning) -> None:
    assert f"| {code} | {meaning} |" in PAGE
    assert f"{code}: {meaning}" in " ".join(build_parser().format_help().split())
