# SPDX-License-Identifier: Apache-2.0
"""`cfg_args`: the text file `Namespace(key=value, ...)` that 3DGS viewers look for in a run folder.

Upstream reads it back with eval(); here it is parsed, and only literals are taken.
"""

import argparse
import ast
import dataclasses
from pathlib import Path
from typing import Any

from arguments import Config
from utils.bounded_file import read_bytes

MAX_BYTES = 1 << 20


def write_cfg_args(path: Path, config: Config) -> None:
    """Writes ModelParams as upstream does, with model_path set to the run folder."""
    values = dataclasses.asdict(config.model) | {"model_path": str(config.output_dir)}
    path.write_text(str(argparse.Namespace(**values)), encoding="utf-8")


def read_cfg_args(path: Path) -> dict[str, Any]:
    """Key -> value of a cfg_args file, upstream's or ours; leading underscores of keys are dropped.

    Raises ValueError for a file that is missing, too long or not `Namespace(...)` of literals.
    """
    try:
        raw = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise ValueError(f"cfg_args {path} cannot be read ({error.strerror}): expected a run's cfg_args") from None
    except ValueError as error:
        raise ValueError(f"cfg_args {error}: expected one line Namespace(...)") from None
    try:
        return _parse(raw.decode("utf-8"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"cfg_args {path} is not of the form Namespace(key=value, ...) with plain values; delete or correct it"
        ) from None


def _parse(text: str) -> dict[str, Any]:
    """ValueError or SyntaxError for anything but Namespace(literals)."""
    call = ast.parse(text.strip(), mode="eval").body
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise ValueError("not a call")
    if call.func.id != "Namespace" or any(word.arg is None for word in call.keywords):
        raise ValueError("not a Namespace of keywords")
    return {str(word.arg).lstrip("_"): ast.literal_eval(word.value) for word in call.keywords}
