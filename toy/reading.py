# SPDX-License-Identifier: Apache-2.0
"""What a prompt asks of the toy world: one object and its two colours, or why it asks for something else.

A prompt is refused where the result could not be what it says: no known object, several objects, a colour that the
world lacks, a negation, a misspelt word. Any other unknown word beside a known object is ignored, and reported.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from PIL import ImageColor

from arguments.coerce import show
from toy.captions import (
    COLOURS,
    DEFAULT_COLOURS,
    PARTS,
    SYNONYMS,
    VIEW_WORDS,
    Spec,
    default_colour_b,
    known_words,
)
from toy.objects import CLASSES

# fmt: off
FUNCTION_WORDS = frozenset((
    "a", "an", "the", "this", "that", "one", "1", "single", "of", "with", "and", "its", "his", "her", "their",
    "in", "on", "at", "by", "for", "from", "has", "having", "is", "photo", "dslr", "image", "image",
    "render", "rendering", "toy", "3d", "model", "object", "background", "view",
    *VIEW_WORDS,
))
"""Words of a prompt that ask for nothing."""
COUNTS = frozenset((
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "dozen",
    "dozens", "pair", "pairs", "couple", "several", "many", "multiple", "few", "both",
))
NEGATIONS = frozenset((
    "no", "not", "without", "never", "neither", "nor", "none", "non", "except", "minus", "isn", "don",
    "doesn", "aren",
))
# fmt: on
IRREGULAR = {"snowmen": "snowman"}
KNOWN = (*CLASSES, *COLOURS, *dict.fromkeys(PARTS.values()), *SYNONYMS)
MISSPELT = 0.8
"""Of difflib's similarity, 0..1: an unknown word that is more similar than that to a known one is a misspelling."""
MAX_WORDS, MAX_LETTERS = 1000, 40  # of a prompt that are looked at; of a word that is compared


class UnknownPrompt(ValueError):
    """A prompt that the toy world cannot show."""


@dataclass(frozen=True)
class Reading:
    """How the toy world reads a prompt.

    spec: what is made, None where no object is named. problem: why the prompt is refused, completes "the prompt ...";
    empty when it is understood. unknown: words that mean nothing here, each with the nearest known word or "".
    unused: known words without an effect.
    """

    text: str
    spec: Spec | None
    problem: str
    unknown: dict[str, str]
    unused: tuple[str, ...] = ()

    @property
    def refusal(self) -> str:
        """One or two sentences with everything that is known; empty when the prompt is understood."""
        return f"the prompt {show(self.text)} {self.problem}. {known_words()}" if self.problem else ""

    @property
    def corrected(self) -> str:
        """The prompt with its misspelt words corrected; empty where it needs no correction or stays unknown."""
        wrong = {word: near for word, near in self.unknown.items() if _is_colour(word) or _is_misspelt(word, near)}
        if not self.problem or not wrong:
            return ""
        text = re.sub(r"[^\W_]+", lambda found: wrong.get(found[0].lower(), found[0]), self.text)
        return "" if read_prompt(text).problem else text

    @property
    def notice(self) -> str:
        """One sentence on words that have no effect; empty without such words."""
        if not self.unknown and not self.unused:
            return ""
        part = f"; the part of a {self.spec.class_name} is its {PARTS[self.spec.class_name]}" if self.spec else ""
        ignored = listed([*self.unknown, *self.unused])
        return f"the toy world ignores {ignored} in the prompt {show(self.text)}{part}"


def parse_prompt(text: str) -> Spec:
    """What the prompt asks for. A colour that is not named takes the class's default.

    Raises UnknownPrompt (a ValueError) with what is known where the prompt cannot be shown.
    """
    reading = read_prompt(text)
    if reading.spec is None or reading.problem:
        raise UnknownPrompt(reading.refusal)
    return reading.spec


def read_prompt(text: str, learned: Collection[str] = ()) -> Reading:
    """How the toy world reads a prompt. learned: words of a textual inversion, which may mean any object."""
    plain = text
    for word in learned:
        plain = plain.replace(word, " ")
    words = [known_form(word) for word in words_of(plain)]
    named = [at for at, word in enumerate(words) if word in CLASSES]
    class_name = words[named[0]] if named else None
    spec, colours = (None, []) if class_name is None else _spec(words, named[0])
    used = {*named, *colours}
    part = "" if class_name is None else PARTS[class_name].removesuffix("s")
    ours = FUNCTION_WORDS | {part, f"{part}s"}
    extra = [word for at, word in enumerate(words) if at not in used and word not in ours]
    unknown = {word: nearest_word(word) for word in dict.fromkeys(extra) if word not in KNOWN}
    unused = tuple(dict.fromkeys(word for word in extra if word in KNOWN))
    classes = list(dict.fromkeys(words[at] for at in named))
    counted = [word for word in words[: named[0] if named else 0] if word in COUNTS or word.isdigit()]
    problem = _problem(classes, counted, unknown) if classes or plain == text else ""
    return Reading(text, spec, problem, unknown, unused)


def _spec(words: list[str], at: int) -> tuple[Spec, list[int]]:
    """Class at word `at`, the colour before it and the first one after it; and where these colours are."""
    class_name = words[at]
    before = [k for k in range(at) if words[k] in COLOURS]
    after = [k for k in range(at + 1, len(words)) if words[k] in COLOURS]
    colour_a = words[before[-1]] if before else DEFAULT_COLOURS[class_name][0]
    colour_b = words[after[0]] if after else default_colour_b(class_name, colour_a)
    return Spec(class_name, colour_a, colour_b), before[-1:] + after[:1]


def _problem(classes: list[str], counts: list[str], unknown: dict[str, str]) -> str:
    """Why a prompt with these objects, counts and unknown words is refused; empty when it is not."""
    if not classes:
        told = f"; unknown words: {_with_nearest(unknown)}" if unknown else ""
        return f"names no object of the toy world{told}"
    if len(classes) > 1:
        return f"names {len(classes)} objects ({', '.join(classes)}); expected one"
    if counts:
        return f"asks for several objects ({listed(counts)}); expected one"
    if negations := [word for word in unknown if word in NEGATIONS]:
        return f"has a negation ({listed(negations)}); expected what is to be seen"
    wrong = {word: near for word, near in unknown.items() if _is_colour(word) or _is_misspelt(word, near)}
    return f"has unknown words: {_with_nearest(wrong)}" if wrong else ""


def words_of(text: str) -> Iterator[str]:
    """The words and pictographs of a text in lower case, without accents, punctuation and the possessive s."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    plain = re.sub(r"['\u2019]s\b", " ", bare.lower())
    for found, _ in zip(re.finditer(r"[^\W_]+|[^\w\s]", plain), range(MAX_WORDS)):
        word = found.group()
        if word[0].isalnum() or unicodedata.category(word[0]) == "So":
            yield word


def known_form(word: str) -> str:
    """The word by which the toy world knows a synonym or a plural; any other word as it is."""
    for candidate in (word, *_singulars(word)):
        candidate = SYNONYMS.get(candidate, candidate)
        if candidate in CLASSES or candidate in COLOURS or candidate in PARTS.values() or candidate in FUNCTION_WORDS:
            return candidate
    return word


def _singulars(word: str) -> Iterator[str]:
    if word in IRREGULAR:
        yield IRREGULAR[word]
    for ending, singular in (("s", ""), ("es", ""), ("ies", "y")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            yield word.removesuffix(ending) + singular


def nearest_word(word: str) -> str:
    """The known word that is most like an unknown one: a colour by its numbers, others by their letters; "": none."""
    if _is_colour(word):
        rgb = ImageColor.getrgb(word)
        return min(COLOURS, key=lambda name: sum((c / 255 - known) ** 2 for c, known in zip(rgb, COLOURS[name])))
    short = word[:MAX_LETTERS]
    if anagrams := [known for known in KNOWN if sorted(known) == sorted(short)]:
        return anagrams[0]
    return next(iter(difflib.get_close_matches(short, KNOWN, 1, cutoff=0.3)), "")


def _is_colour(word: str) -> bool:
    """Whether an unknown word is the name of a colour (of CSS)."""
    return word in ImageColor.colormap and word not in COLOURS


def _is_misspelt(word: str, nearest: str) -> bool:
    similar = difflib.SequenceMatcher(None, word[:MAX_LETTERS], nearest).ratio()
    return similar > MISSPELT or sorted(word) == sorted(nearest)


def _with_nearest(unknown: dict[str, str]) -> str:
    shown = [show(word) + (f" (nearest known word: {near})" if near else "") for word, near in unknown.items()]
    return _shortened(shown)


def listed(words: list[str]) -> str:
    """The first few words of a list, in quotes."""
    return _shortened([show(word) for word in words])


def _shortened(words: list[str]) -> str:
    """The first few of a list."""
    return ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")
