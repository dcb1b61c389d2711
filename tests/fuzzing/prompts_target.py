# SPDX-License-Identifier: Apache-2.0
"""Prompts: the texts of a run, the toy world's reading of them, and the embedded tokenizer."""

import math
from pathlib import Path

import torch
from hypothesis import strategies as st

from arguments import GuidanceParams
from guidance.prompts import PromptEmbeddings, PromptTexts
from tests.fuzzing.engine import LawBroken, Target
from toy.captions import COLOURS, SYNONYMS, view_word_of, vocabulary
from toy.objects import CLASSES
from toy.reading import UnknownPrompt, parse_prompt, read_prompt

WORDS = [
    *vocabulary(),
    *SYNONYMS,
    "",
    ",",
    ".",
    "DSLR",
    "photo",
    "of",
    "İ",
    "ß",
    "<unk>",
    "\0",
    "\n",
    "🤖",
    "\u202e",
    "hamburger",
]
SENTENCES = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=12).map(" ".join)
LONG = st.builds(lambda text, count: text * count, st.text(min_size=1, max_size=6), st.sampled_from([10_000, 30_000]))
AZIMUTHS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3)


class Texts:
    """A prior that embeds a text as its length."""

    def get_text_embeds(self, texts):
        return torch.tensor([[[float(len(text)), 1.0]] for text in texts])


def law(given: tuple[str, list[float], bool]) -> bool:
    """A run's texts and what its views are conditioned on, or a ValueError of one sentence; then the toy world's."""
    text, azimuths, perpneg = given
    try:
        params = GuidanceParams(text=text, perpneg=perpneg)
        texts = PromptTexts.from_params(params)
    except ValueError as error:
        _one_sentence(error)
        if text.strip():
            raise LawBroken("a prompt that is not empty was refused") from error
        return False
    if not texts.front.startswith(text):
        raise LawBroken("the front's text is another")
    conditioning = PromptEmbeddings(Texts(), params).conditioning(azimuths)
    if not all(x.isfinite().all() for x in (conditioning.positive, *(w for _, w in conditioning.negatives))):
        raise LawBroken("a conditioning that is not finite")
    return _understood(text)


def _understood(text: str) -> bool:
    if (word := view_word_of(text)) not in (None, "front", "side", "back"):
        raise LawBroken(f"view word {word!r}")
    if notice := read_prompt(text).notice:
        _one_sentence(notice)
    try:
        spec = parse_prompt(text)
    except UnknownPrompt as error:
        _one_sentence(error)
        return False
    if spec.class_name not in CLASSES or not {spec.colour_a, spec.colour_b} <= set(COLOURS):
        raise LawBroken(f"{spec} is not of the toy world")
    return all(math.isfinite(x) for x in (*spec.rgb_a(), *spec.rgb_b()))


def _one_sentence(error: BaseException | str) -> None:
    if not str(error) or "\n" in str(error) or len(str(error)) > 2000:
        raise LawBroken(f"no sentence: {str(error)[:100]!r} ({len(str(error))} characters)")


def _read(path: Path) -> tuple[str, list[float], bool]:
    return path.read_text(encoding="utf-8"), [0.0, 90.0], True


PROMPTS = Target("prompts", st.tuples(SENTENCES | st.text() | LONG, AZIMUTHS, st.booleans()), law, _read)
