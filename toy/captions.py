# SPDX-License-Identifier: Apache-2.0
"""The language of the toy world: which prompts it knows, what they mean, and which are held out.

    "a <colour A> <class>"  or  "a <colour A> <class> with <colour B> <part>",
    then  ", front view" (side, back) or nothing

Articles, "DSLR photo of" and a full stop are tolerated; synonyms and plurals are mapped (reading.py). Captions are
written without an article before the part, prompts may have one.
"""

import re
from dataclasses import dataclass

from toy.objects import CLASSES, PARTS

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.16, 0.16),
    "orange": (1.00, 0.50, 0.08),
    "yellow": (1.00, 0.86, 0.16),
    "green": (0.22, 0.68, 0.28),
    "cyan": (0.22, 0.80, 0.86),
    "blue": (0.18, 0.38, 0.92),
    "purple": (0.58, 0.28, 0.82),
    "pink": (1.00, 0.55, 0.70),
    "brown": (0.52, 0.32, 0.18),
    "white": (0.98, 0.98, 1.00),
    "grey": (0.52, 0.54, 0.58),
    "black": (0.12, 0.12, 0.15),
}
"""Colour word -> rgb in [0, 1]."""

VIEW_WORDS: tuple[str, ...] = ("front", "side", "back")

DEFAULT_COLOURS: dict[str, tuple[str, str]] = {
    "cube": ("red", "white"),
    "sphere": ("blue", "yellow"),
    "cone": ("orange", "white"),
    "cylinder": ("green", "grey"),
    "donut": ("brown", "pink"),
    "snowman": ("white", "red"),
    "robot": ("cyan", "orange"),
    "mug": ("yellow", "blue"),
    "house": ("yellow", "red"),
    "rocket": ("white", "red"),
    "table": ("brown", "blue"),
    "mushroom": ("red", "white"),
    "car": ("red", "blue"),
    "cat": ("orange", "blue"),
    "owl": ("brown", "yellow"),
}
"""Class -> colours A and B taken where a prompt names none."""

HELD_OUT_CLASSES: tuple[str, ...] = ("owl", "car")
"""Classes on which no setting (CFG, learning rates, schedules) was tuned; the priors do know them."""

HELD_OUT_COLOUR_PAIRS: tuple[tuple[str, str], ...] = (
    ("purple", "green"),
    ("pink", "blue"),
    ("green", "orange"),
    ("blue", "yellow"),
    ("grey", "purple"),
    ("cyan", "red"),
)
"""Pairs (colour A, colour B) that the trained prior never sees together and on which nothing was tuned."""

SYNONYMS: dict[str, str] = {
    "ball": "sphere",
    "torus": "donut",
    "doughnut": "donut",
    "barrel": "cylinder",
    "can": "cylinder",
    "cup": "mug",
    "desk": "table",
    "dice": "cube",
    "box": "cube",
    "kitten": "cat",
    "gray": "grey",
    "violet": "purple",
    "turquoise": "cyan",
    "spots": "dots",
    "scarf": "hat",
    "tips": "fins",
    "cap": "hat",
}


@dataclass(frozen=True)
class Spec:
    """What a prompt asks for: a class and two colour words."""

    class_name: str
    colour_a: str
    colour_b: str

    def rgb_a(self) -> tuple[float, float, float]:
        """Colour of slot A, rgb in [0, 1]."""
        return COLOURS[self.colour_a]

    def rgb_b(self) -> tuple[float, float, float]:
        """Colour of slot B, rgb in [0, 1]."""
        return COLOURS[self.colour_b]


def caption(class_name: str, colour_a: str, colour_b: str | None = None, view_word: str | None = None) -> str:
    """The caption of an image; colour_b None leaves the part out, view_word None leaves the view out."""
    article = "an" if colour_a[0] in "aeiou" else "a"
    text = f"{article} {colour_a} {class_name}"
    if colour_b is not None:
        text += f" with {colour_b} {PARTS[class_name]}"
    return text if view_word is None else f"{text}, {view_word} view"


def vocabulary() -> list[str]:
    """Every word that captions are made of, sorted."""
    words = {"a", "an", "with", "view", *VIEW_WORDS, *COLOURS, *CLASSES, *PARTS.values()}
    return sorted(words)


def known_words() -> str:
    """One sentence for messages: what a prompt can say."""
    example, parts = caption("snowman", "white", "red"), ", ".join(dict.fromkeys(PARTS.values()))
    known = f"Known objects: {', '.join(CLASSES)}; known colours: {', '.join(COLOURS)}; known parts: {parts}"
    return f'{known}; synonyms: {", ".join(SYNONYMS)}; for example "{example}".'


def default_colour_b(class_name: str, colour_a: str) -> str:
    """Colour of slot B where only colour A is named: the class's default, or another one if that equals colour A."""
    first, second = DEFAULT_COLOURS[class_name]
    return second if second != colour_a else (first if first != colour_a else "white")


def view_word_of(text: str) -> str | None:
    """The view word at the end of "..., front view", if there is one."""
    found = re.search(r",\s*(front|side|back)\s+view\b", text.lower())
    return found.group(1) if found else None
