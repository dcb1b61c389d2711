# SPDX-License-Identifier: Apache-2.0
"""The prompts that the toy world understands, and what it says about the others."""

import warnings

import pytest

from guidance.toy.captions import (
    COLOURS,
    DEFAULT_COLOURS,
    HELD_OUT_CLASSES,
    HELD_OUT_COLOUR_PAIRS,
    VIEW_WORDS,
    Spec,
    UnknownPrompt,
    caption,
    parse_prompt,
    view_word_of,
    vocabulary,
)
from guidance.toy.objects import CLASSES


@pytest.mark.parametrize("class_name", CLASSES)
def test_captions_are_understood_without_a_warning(class_name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for view_word in (None, *VIEW_WORDS):
            text = caption(class_name, "purple", "cyan", view_word)
            assert parse_prompt(text) == Spec(class_name, "purple", "cyan")
            assert view_word_of(text) == view_word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A DSLR photo of an orange cat with a blue collar.", Spec("cat", "orange", "blue")),
        ("a green ball", Spec("sphere", "green", "yellow")),
        ("a snowman", Spec("snowman", "white", "red")),
        ("a gray cup with the violet handle, back view", Spec("mug", "grey", "purple")),
        ("a yellow sphere", Spec("sphere", "yellow", "blue")),
    ],
)
def test_prompts_as_people_write_them(text, expected):
    assert parse_prompt(text) == expected


def test_an_unknown_object_lists_what_is_known():
    with pytest.raises(UnknownPrompt, match=r"'a hamburger' names no object.*snowman.*purple"):
        parse_prompt("a hamburger")


def test_words_that_are_not_understood_are_named():
    with pytest.warns(UserWarning, match=r"ignores 'baroque', 'golden'.*Known objects.*its arms"):
        assert parse_prompt("a baroque red robot with golden arms") == Spec("robot", "red", "orange")


def test_caption_words_are_the_vocabulary_and_held_out_names_exist():
    words = set(vocabulary())
    for class_name, (colour_a, colour_b) in DEFAULT_COLOURS.items():
        assert set(caption(class_name, colour_a, colour_b, "side").replace(",", "").split()) <= words
    assert set(HELD_OUT_CLASSES) < set(CLASSES)
    assert all(a in COLOURS and b in COLOURS and a != b for a, b in HELD_OUT_COLOUR_PAIRS)
