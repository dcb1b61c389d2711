# SPDX-License-Identifier: Apache-2.0
"""Messages, comments, documents and public names use the field's words (tests/documented/glossary.py)."""

import pytest

from tests.documented.commands import PAGES
from tests.documented.glossary import findings, in_name, in_text, product_files

FILES = [*PAGES, *product_files()]


def test_the_fields_words_are_used() -> None:
    assert len(FILES) > 300 and [finding for path in FILES for finding in findings(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "the picture is empty", "Point-E cannot be had", "the same command goes on", "made\nanew", "words of strangers",
        "the prior says that", "device x given, that is none", "SIGTERM came", "it waits in line", "was never told what 'x' means",
    ],
)  # fmt: skip
def test_a_word_of_a_text_is_noticed(text) -> None:
    assert in_text(text)


@pytest.mark.parametrize(
    "text", ["a share of all images", "on and off", "in line with", "the mold", "image, dtype", "foregone"]
)
def test_other_words_are_left_alone(text) -> None:
    assert not in_text(text)


@pytest.mark.parametrize("name", ["PictureSize", "is_told", "accumulate_gradients", "strangers", "Crew", "Share"])
def test_a_part_of_a_name_is_noticed(name) -> None:
    assert in_name(name)


@pytest.mark.parametrize("name", ["max_step_share", "threshold", "foundation", "task", "mask"])
def test_other_names_are_left_alone(name) -> None:
    assert not in_name(name)
