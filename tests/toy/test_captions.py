# SPDX-License-Identifier: Apache-2.0
"""The captions of the toy world and its words."""

import pytest

from toy.captions import (
    COLOURS,
    DEFAULT_COLOURS,
    HELD_OUT_CLASSES,
    HELD_OUT_COLOUR_PAIRS,
    VIEW_WORDS,
    caption,
    view_word_of,
    vocabulary,
)
from toy.objects import CLASSES


@pytest.mark.parametrize("class_name", CLASSES)
def test_view_words_are_read_back(class_name):
    for view_word in (None, *VIEW_WORDS):
        assert view_word_of(caption(class_name, "purple", "cyan", view_word)) == view_word


def test_caption_words_are_the_vocabulary_and_held_out_names_exist():
    words = set(vocabulary())
    for class_name, (colour_a, colour_b) in DEFAULT_COLOURS.items():
        assert set(caption(class_name, colour_a, colour_b, "side").replace(",", "").split()) <= words
    assert set(HELD_OUT_CLASSES) < set(CLASSES)
    assert all(a in COLOURS and b in COLOURS and a != b for a, b in HELD_OUT_COLOUR_PAIRS)
