# SPDX-License-Identifier: Apache-2.0
"""The command line: upstream's flags, one flag for every key of every group, and --set Group.key=value.

Values stay words here; `arguments.load` turns them into typed values with the same code as YAML's.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import re
import shlex
from typing import Any, NoReturn

from arguments import GROUPS, Config
from arguments.coerce import expectation, in_words, is_pair, is_tuple, show
from arguments.declare import KeySpec, keys_of
from arguments.exit_codes import MEANING

DESCRIPTION = "Text to 3D Gaussians. Settings: defaults < YAML file (--opt) < command line."
EPILOG = (
    "Every key is also --Group.key VALUE or --set Group.key=VALUE. "
    'Example: python train.py --opt configs/quickstart.yaml --text "a red mug" --iterations 600. '
    f"Exit status: {'. '.join(f'{code}: {meaning}' for code, meaning in MEANING.items())}."
)


class CommandLineError(ValueError):
    """Words that cannot be split into flags and values."""


class _Formatter(argparse.HelpFormatter):
    """Shows the values a flag takes as its metavar says; how many are given is checked elsewhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=120)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return str(action.metavar or default_metavar)


class _Parser(argparse.ArgumentParser):
    """Takes every negative number for a value, "-1e-3" too, and raises CommandLineError instead of exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-\.?\d[\d_.]*(e[-+]?\d+)?", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(message)


@dataclasses.dataclass(frozen=True)
class Words:
    """What the command line says: (group or "", key, words) in no order that matters, --set texts, the rest."""

    settings: list[tuple[str, str, list[str]]]
    assignments: list[str]
    strangers: list[str]


def owners() -> dict[str, list[str]]:
    """Key name -> groups that have it; "" is the top level and comes first."""
    found: dict[str, list[str]] = {name: [""] for name in keys_of(Config)}
    for group, (_, declared) in GROUPS.items():
        for name in keys_of(declared):
            found.setdefault(name, []).append(group)
    return found


@functools.cache
def build_parser() -> _Parser:
    """A parser with a flag for every declared key; a name that two groups share needs --Group.key."""
    parser = _Parser(
        prog="train.py",
        usage="train.py --opt FILE [--text PROMPT] [--dry-run] [--KEY VALUE ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="GROUP.KEY=VALUE", help="set any key")
    owned = owners()
    run = parser.add_argument_group("run")
    for name, (kind, spec, default) in keys_of(Config).items():
        _add(run, "", name, list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))), kind, spec, default)
    for group, (_, declared) in GROUPS.items():
        section = parser.add_argument_group(group, (declared.__doc__ or "").splitlines()[0])
        for name, (kind, spec, default) in keys_of(declared).items():
            plain = [f"--{name}"] if owned[name] == [group] else []
            _add(section, group, name, [*plain, f"--{group}.{name}", *spec.aliases], kind, spec, default)
    return parser


def _add(section: Any, group: str, name: str, flags: list[str], kind: Any, spec: KeySpec, default: Any) -> None:
    text = f"{spec.help} [{expectation(kind, spec)}; default {in_words(default)}]"
    text = (text + " (nothing reads it)" if spec.unread else text).replace("%", "%%")
    metavar = "LO HI" if is_pair(kind) else "N ..." if is_tuple(kind) else "[BOOL]" if kind is bool else "VALUE"
    dest = f"{group}.{name}"
    section.add_argument(*flags, dest=dest, nargs="*", default=argparse.SUPPRESS, metavar=metavar, help=text)


def read_words(argv: list[str]) -> Words:
    """Splits a command line. Raises CommandLineError; prints the help and exits on --help."""
    parser = build_parser()
    _refuse_dashed_values(argv, parser)
    known, strangers = parser.parse_known_args(argv)
    found = vars(known)
    assignments = found.pop("set")
    settings = [(*address.split(".", 1), words) for address, words in found.items()]
    return Words([(group, name, words) for group, name, words in settings], assignments, strangers)


def _refuse_dashed_values(argv: list[str], parser: _Parser) -> None:
    """CommandLineError for a text that starts with a dash where a flag wants its value: --text "-robot"."""
    flags = parser._option_string_actions
    for flag, word in itertools.pairwise(argv):
        takes_one = flag in flags and flags[flag].metavar == "VALUE"
        is_flag = word.split("=")[0] in flags or re.fullmatch(r"--[A-Za-z][\w.-]*(=.*)?", word, re.DOTALL)
        is_clear = is_flag or (" " in word and word[:2] not in flags) or parser._negative_number_matcher.fullmatch(word)
        if takes_one and word.startswith("-") and len(word) > 1 and not is_clear:
            raise CommandLineError(
                f"{flag} {show(word)}: a value that starts with a dash needs an equals sign: "
                f"{flag}={shlex.quote(word[:80])}"
            )


def value_of(words: list[str], kind: Any) -> object:
    """The words of one flag as coerce() takes them. Raises ValueError when their number is wrong."""
    if is_tuple(kind):
        inside = " ".join(words).strip().strip("[]()")
        return [word for word in re.split(r"[\s,]+", inside) if word]
    if kind is bool and not words:
        return "true"
    if len(words) != 1:
        raise ValueError(f"one value, {len(words)} given" + ("; put text in quotes" if len(words) > 1 else ""))
    return words[0]
