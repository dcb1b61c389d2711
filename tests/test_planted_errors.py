# SPDX-License-Identifier: Apache-2.0
"""The errors of tests/mutations.py can be planted: whoever changes code finds out here, not in a run of that program."""

import collections

import pytest

from tests.mutations import ROOT
from tests.planted.errors import ERRORS


@pytest.mark.parametrize("file", sorted({error.file for error in ERRORS}))
def test_each_text_that_an_error_replaces_is_there_once(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert [error.old for error in ERRORS if error.file == file and text.count(error.old) != 1] == []


def test_the_tests_that_ought_to_see_an_error_are_there() -> None:
    named = collections.Counter(word for error in ERRORS for word in error.tests.split() if word.startswith("tests/"))
    assert len(named) > 30 and [path for path in named if not (ROOT / path.partition("::")[0]).exists()] == []
