# SPDX-License-Identifier: Apache-2.0
"""Reads a YAML file of settings without trusting it: safe loader, size limit, duplicate keys noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024


class SettingsLoader(yaml.SafeLoader):
    """yaml.SafeLoader that remembers keys given twice in one mapping, as (key, line), lines counted from 1."""

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


def read_yaml(path: str) -> tuple[dict[Any, Any], list[str]]:
    """(mapping of the file, problems found); the mapping is empty when the file cannot be used at all.

    Each problem is one sentence that starts with the path.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        return {}, [f"{path}: cannot be read ({reason}): expected a YAML file, such as configs/quickstart.yaml"]
    if len(raw) > MAX_BYTES:
        return {}, [f"{path}: longer than {MAX_BYTES} bytes: expected a YAML file of settings"]
    try:
        return _parse(path, raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return {}, [f"{path}: byte {error.start} is not UTF-8: expected a YAML file of settings"]


def _parse(path: str, text: str) -> tuple[dict[Any, Any], list[str]]:
    try:
        loader = SettingsLoader(text)
        content = loader.get_single_data()
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
    problems = [f"{path}:{line}: {name} is given twice: expected once" for name, line in loader.duplicates]
    if content is None:
        return {}, problems
    if not isinstance(content, dict):
        kind = type(content).__name__
        return {}, [*problems, f"{path}: holds a {kind}: expected groups such as `OptimizationParams:` with keys below"]
    return content, problems
