# SPDX-License-Identifier: Apache-2.0
"""Paths in settings: a relative one becomes absolute when it is read, to be the same file from every folder."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arguments import GROUPS, Config
from arguments.command_line import build_parser
from arguments.declare import keys_of
from distillation import is_law_file
from utils.model_ids import REPOSITORY, expanded


def settled(label: str, value: Any) -> Any:
    """The value of Group.key, or of a key of the top level; absolute where it is a path of something in this folder.

    What else it is stays: a hub id, a mistake; and the name of a model in the program's folder, which may be moved.
    """
    group, _, name = label.rpartition(".")
    known = keys_of(GROUPS[group][1]) if group in GROUPS else keys_of(Config) if not group else {}
    path = known[name][1].path if name in known else ""
    if not path or not isinstance(value, str) or not value:
        return value
    if path == "law":
        file, _, law = value.rpartition(":")
        return f"{_absolute(file)}:{law}" if is_law_file(value) else value
    found = _absolute(value)
    is_of_program = path == "model" and _is_same(found, REPOSITORY / value)
    return value if is_of_program else found


def settled_words(words: Iterable[str]) -> list[str]:
    """Words of train.py's command line, each path in them settled."""
    flags, made = build_parser()._option_string_actions, list[str]()
    for word in words:
        before = made[-1] if made else ""
        first, equals, value = word.partition("=")
        if before in flags and before != "--set":
            made.append(settled(flags[before].dest.removeprefix("."), word))
        else:  # --flag=value, or of --set Group.key=value
            label = flags[first].dest.removeprefix(".") if first in flags else first
            made.append(f"{first}={settled(label, value)}" if equals else word)
    return made


def _absolute(path: str) -> str:
    place = expanded(path)
    return str(place.absolute()) if os.path.exists(place) else path


def _is_same(one: str, other: Path) -> bool:
    return os.path.exists(one) and other.exists() and other.samefile(one)
