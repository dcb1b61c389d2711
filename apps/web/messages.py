# SPDX-License-Identifier: Apache-2.0
"""Messages of the command line as messages of the page: settings by their names there; no flags, no settings file."""

import ast
import re

from apps.web.fields import OWNED, PLAIN, PROMPT, fields
from apps.web.presets import HEIGHT, TITLES, WIDTH
from arguments.load import COMMAND_LINE, ConfigError

NO_PROMPT = 'Type what to make, for example "a red mug".'
OF_THE_COMMAND_LINE = [
    (r"\d+ problems? (?:in the settings|at the start):\s+", ""),
    (rf"(?m)^ *(?:{COMMAND_LINE}|defaults|.*?\.yaml): ", ""),  # where a setting was read
    (r"[.;]? Resume with --resume \S+", "."),  # the page has a button for it
    (r",? or (?:write elsewhere|use another|choose another) with --(?:workspace|model_path)\b(?: [A-Z]+)?", ""),
    (r",? and start again with --overwrite\b", ", and start a new run"),
    (r"\[Errno \d+\] ", ""),
    (r", or FILE\.py:NAME on the command line", ""),
]
"""Pattern -> what the page says in its place."""


def faults(error: ConfigError) -> list[tuple[str, str]]:
    """(label or "", sentence in the page's words) of each problem."""
    found = []
    for problem in error.problems:
        sentence = re.sub(rf"^(?:{COMMAND_LINE}|defaults|.*?\.yaml): ", "", problem)
        named = re.match(r"[\w.]+", sentence)
        label = named[0] if named and (named[0] in fields() or named[0] in OWNED) else ""
        is_empty = label == PROMPT and "expected a prompt: pass" in sentence
        found.append((label, NO_PROMPT if is_empty else in_page_words(sentence)))
    return found


def in_page_words(sentence: str) -> str:
    """A message, of one or more lines."""
    for pattern, words in OF_THE_COMMAND_LINE:
        sentence = re.sub(pattern, words, sentence)
    names = {one.name: one.label for one in fields().values()}
    telling = "|".join(name for name in names if not name.isalpha())  # no word of a sentence
    sentence = re.sub(rf"(?<![\w.])((?:\w+\.)?(?:{telling})): (?=[\w.-])", r"\1 = ", sentence)
    width, height = (label.rpartition(".")[2] for label in (WIDTH, HEIGHT))
    sentence = re.sub(rf"\b{width} = (\d+), {height} = \1\b", rf"{PLAIN[WIDTH]} = \1", sentence)
    for label, name in PLAIN.items():
        sentence = re.sub(rf"(?<![\w.]){re.escape(label)}(?![\w.])", name, sentence)
    sentence = re.sub(r"= (\[(?:'[^']*'(?:, )?)*\]): expected", _as_typed, sentence)
    sentence = re.sub(r"(?:--opt )?configs/(\w+)\.yaml", _preset, sentence)
    return re.sub(r"--(\w+)", lambda flag: _setting(flag, names), sentence)


def _as_typed(found: re.Match[str]) -> str:
    return f"= {' '.join(ast.literal_eval(found[1]))!r}: expected"


def _preset(found: re.Match[str]) -> str:
    return f'the preset "{TITLES[found[1]]}"' if found[1] in TITLES else found[0]


def _setting(flag: re.Match[str], names: dict[str, str]) -> str:
    """The name of a flag's setting on the page; another flag as it is."""
    label = names.get(flag[1], flag[1])
    return PLAIN.get(label, f"the advanced setting {flag[1]}") if flag[1] in names else flag[0]
