# SPDX-License-Identifier: Apache-2.0
"""Reads an untrusted YAML file of settings: safe loader, size limit, duplicate keys reported.

A file may begin from another one: `base: prompt.yaml` at its top level, a path relative to that file.
"""

import copy
import difflib
import functools
import os
import re
from pathlib import Path
from typing import Any

import yaml

from arguments.coerce import show
from utils.bounded_file import read_bytes

MAX_BYTES = 256 * 1024
MAX_BRACKETS = 5000
"""Opening ones in a file: the parser's time grows with their square."""
BASE_KEY = "base"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"

NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)$",
    "tag:yaml.org,2002:float": (
        r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
}
"""YAML's tag of a number -> how it is written."""

Layer = tuple[str, dict[Any, Any]]
"""(path, mapping) of one file."""


class SettingsLoader(yaml.SafeLoader):
    """yaml.SafeLoader that records keys given twice in one mapping, as (key, line), lines counted from 1.

    Numbers are those of a command line: of what only YAML 1.1 takes for one, octal 010, 0x10, 0b10, 1_000 and 1:30 on
    base 60, the text is kept, which arguments.coerce reads or refuses.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.duplicates: list[tuple[str, int]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "<<"
            if name in seen and name != "<<":
                self.duplicates.append((name, key_node.start_mark.line + 1))
            seen.add(name)
        return super().construct_mapping(node, deep)


SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for tag, pattern in NUMBERS.items():
    SettingsLoader.add_implicit_resolver(tag, re.compile(pattern), list("-+.0123456789"))


def read_layers(path: str) -> tuple[list[Layer], list[str]]:
    """(the file and the files it is based on, problems found); the one that everything is based on comes first.

    The list is empty when the file, or one that it is based on, cannot be used at all.
    """
    layers: list[Layer] = []
    problems: list[str] = []
    trail: list[str] = []
    next_path: str | None = path
    while next_path is not None:
        tree, found = read_yaml(next_path)
        asked_by = f"{trail[-1]}: {BASE_KEY}: " if trail else ""
        problems += [asked_by + problem for problem in found]
        if found and not tree:
            return [], problems
        trail.append(next_path)
        next_path, problem = _base_of(tree, trail)
        layers.insert(0, (trail[-1], {key: value for key, value in tree.items() if key != BASE_KEY}))
        if problem:
            return [], [*problems, problem]
    return layers, problems


def find_settings(name: str) -> tuple[str, str | None]:
    """(path of a YAML file, None) for a path, or for a name below configs/ with or without .yaml.

    Without such a file (the name, what is wrong with it), the nearest names of configs/ included.
    """
    given = Path(name)
    if "\0" in name or not name.strip():
        return name, f"opt = {show(name)}: expected a YAML file, or a name below configs/"
    for path in (given, CONFIGS / given, CONFIGS / f"{name}.yaml", CONFIGS.parent / given):
        if os.path.isfile(path):
            return str(path), None
    if os.path.lexists(given):  # such as a folder, or a pipe
        return name, None
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    near = difflib.get_close_matches(given.stem, names, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"configs/ has {', '.join(names)}"
    expected = "expected a YAML file, such as configs/quickstart.yaml, or a name below configs/"
    return name, f"{name}: cannot be read (no such file or directory): {expected} ({hint})"


def _base_of(tree: dict[Any, Any], trail: list[str]) -> tuple[str | None, str | None]:
    """(path of the file that the last of `trail` is based on, None; or None, what is wrong with it)."""
    base = tree.get(BASE_KEY)
    if base is None:
        return None, None
    given = f"{trail[-1]}: {BASE_KEY} = {show(base)}"
    if not isinstance(base, str) or not base.strip() or "\0" in base:
        return None, f"{given}: expected the path of another YAML file, or no such key"
    path = Path(trail[-1]).parent / base
    if os.path.exists(path) and not os.path.isfile(path):  # a terminal or a pipe might never end
        return None, f"{given}: expected the path of another YAML file, this is not a file"
    if path.resolve() in [Path(earlier).resolve() for earlier in trail]:
        chain = " -> ".join([*(Path(earlier).name for earlier in trail), path.name])
        return None, f"{given}: expected a file that is not based on this one: {chain}"
    return str(path), None


def read_yaml(path: str) -> tuple[dict[Any, Any], list[str]]:
    """(mapping of the file, problems found); the mapping is empty when the file cannot be used at all.

    Each problem is one sentence that starts with the path.
    """
    try:
        raw = read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return {}, [f"{path}: cannot be read ({reason.lower()}): expected a YAML file, such as configs/quickstart.yaml"]
    try:
        return _parse(path, raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return {}, [f"{path}: byte {error.start} is not UTF-8: expected a YAML file of settings"]


@functools.lru_cache(64)
def _content(text: str) -> tuple[Any, list[tuple[str, int]]]:
    """(content, keys given twice), for copying: a sweep reads the same file for each of its runs."""
    loader = SettingsLoader(text)
    return loader.get_single_data(), loader.duplicates


def _parse(path: str, text: str) -> tuple[dict[Any, Any], list[str]]:
    if text.count("[") + text.count("{") > MAX_BRACKETS:
        return {}, [f"{path}: more than {MAX_BRACKETS} brackets: expected a YAML file of settings"]
    try:
        content, duplicates = copy.deepcopy(_content(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        return {}, [f"{where}: broken YAML: {error.problem or error.context}"]
    except yaml.YAMLError as error:
        return {}, [f"{path}: broken YAML: {' '.join(str(error).split())}"]
    except RecursionError:
        return {}, [f"{path}: broken YAML: nested too deeply"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        # PyYAML's own constructors let these out for impossible dates, numbers and tags.
        return {}, [f"{path}: broken YAML: a value cannot be read ({type(error).__name__}: {str(error)[:80]})"]
    problems = [f"{path}:{line}: {name} is given twice: expected once" for name, line in duplicates]
    if content is None:
        return {}, problems
    if not isinstance(content, dict):
        kind = type(content).__name__
        return {}, [*problems, f"{path}: holds a {kind}: expected groups such as `OptimizationParams:` with keys below"]
    return content, problems
