# SPDX-License-Identifier: Apache-2.0
"""The prompts that the toy world understands, those that it refuses, and the words that it ignores."""

import pytest

from toy.captions import COLOURS, PARTS, SYNONYMS, VIEW_WORDS, Spec, caption
from toy.objects import CLASSES
from toy.reading import UnknownPrompt, parse_prompt, read_prompt


@pytest.mark.parametrize("class_name", CLASSES)
def test_captions_are_understood_whole(class_name):
    for view_word in (None, *VIEW_WORDS):
        reading = read_prompt(caption(class_name, "purple", "cyan", view_word))
        assert reading.spec == Spec(class_name, "purple", "cyan")
        assert not reading.problem and not reading.notice


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A DSLR photo of an orange cat with a blue collar.", Spec("cat", "orange", "blue")),
        ("a green ball", Spec("sphere", "green", "yellow")),
        ("a snowman", Spec("snowman", "white", "red")),
        ("a gray cup with the violet handle, back view", Spec("mug", "grey", "purple")),
        ("a yellow sphere", Spec("sphere", "yellow", "blue")),
        ("red mugs", Spec("mug", "red", "blue")),
        ("BOXES!", Spec("cube", "red", "white")),
        ("snowmen", Spec("snowman", "white", "red")),
        ("one turquoise torus", Spec("donut", "cyan", "pink")),
        ("an orange cat's blue collar", Spec("cat", "orange", "blue")),
        ("a cone with a white stripe", Spec("cone", "orange", "white")),
        ("a gréen mug", Spec("mug", "green", "blue")),
        ("mug", Spec("mug", "yellow", "blue")),
        ("a red-and-blue_mug", Spec("mug", "blue", "yellow")),
    ],
)
def test_prompts_as_people_write_them(text, expected):
    assert parse_prompt(text) == expected


@pytest.mark.parametrize("name", CLASSES)
def test_every_object_may_stand_in_the_plural(name):
    plural = "boxes" if name == "cube" else f"{name[:-3]}men" if name.endswith("man") else f"{name}s"
    assert parse_prompt(f"green {plural}").class_name == name


@pytest.mark.parametrize("word", SYNONYMS)
def test_every_synonym_is_a_known_word(word):
    known = {*CLASSES, *COLOURS, *PARTS.values()}
    assert SYNONYMS[word] in known and word not in known


REFUSED = {
    "a dragon": r"names no object.*'dragon' \(nearest known word: donut\)",
    "a hamburger": r"names no object.*'hamburger'",
    "a red mushrom": r"'mushrom' \(nearest known word: mushroom\)",
    "ein rotes Haus": r"'haus' \(nearest known word: house\)",
    "a giraffe": "names no object.*'giraffe'",
    "робот": "names no object.*'робот'",
    "红色的杯子": "names no object",
    "": "names no object",
    "?!": "names no object",
    "🤖": "names no object.*🤖",
    "red": "names no object",
    "front view": "names no object",
    "three red mugs": r"asks for several objects \('three'\)",
    "2 mugs": r"several objects \('2'\)",
    "a pair of owls": r"several objects \('pair'\)",
    "a mug and a house": r"names 2 objects \(mug, house\); expected one",
    "a cup on a desk": r"names 2 objects \(mug, table\)",
    "a cat, an owl, a car": "names 3 objects",
    "a mug without a handle": r"negation \('without'\)",
    "a cat, not orange": r"negation \('not'\)",
    "a crimson mug": r"'crimson' \(nearest known word: red\)",
    "a mug with a navy handle": r"'navy' \(nearest known word: b",
    "a bleu mug": r"'bleu' \(nearest known word: blue\)",
    "a yelow robot": r"'yelow' \(nearest known word: yellow\)",
    "a robot with orange amrs": r"'amrs' \(nearest known word: arms\)",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_cannot_be_shown_is_refused_with_all_that_is_known(text, message):
    with pytest.raises(UnknownPrompt, match=message) as refused:
        parse_prompt(text)
    for word in (*CLASSES, *COLOURS, *PARTS.values(), *SYNONYMS):
        assert word in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1200


@pytest.mark.parametrize(
    ("text", "spec", "ignored"),
    [
        ("a baroque red robot with golden arms", Spec("robot", "red", "orange"), "'baroque', 'golden'"),
        ("a red mug with a white stripe", Spec("mug", "red", "white"), "'stripe'"),
        ("a house with a red door", Spec("house", "yellow", "red"), "'door'"),
        ("a red green blue mug", Spec("mug", "blue", "yellow"), "'red', 'green'"),
        ("a cat with two blue eyes", Spec("cat", "orange", "blue"), "'two', 'eyes'"),
        ("a red mug 🤖", Spec("mug", "red", "blue"), "'🤖'"),
    ],
)
def test_words_without_effect_are_named(text, spec, ignored):
    assert parse_prompt(text) == spec
    notice = read_prompt(text).notice
    assert notice.startswith(f"the toy world ignores {ignored} in") and "\n" not in notice


def test_long_prompts_are_read_in_a_moment():
    assert read_prompt("x" * 10**6).problem and read_prompt("dragon " * 10**5).problem
    assert len(read_prompt("\n".join(map(str, range(10**4)))).refusal) < 2000


def test_a_learned_word_may_be_the_object():
    assert read_prompt("a <dragon> in red", ["<dragon>"]).problem == ""
    assert read_prompt("a <dragon> in red").problem


@pytest.mark.parametrize(
    ("prompt", "corrected"),
    [
        ("a red mushrom", "a red mushroom"),
        ("a RED robto, with oragne arms", "a RED robot, with orange arms"),
        ("a crimson mug", "a red mug"),
        ("a dragon", ""),  # its nearest word is another thing
        ("three red mugs", ""),
        ("a red mug", ""),
    ],
)
def test_only_what_is_misspelt_is_corrected(prompt, corrected) -> None:
    assert read_prompt(prompt).corrected == corrected
