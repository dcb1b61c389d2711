# SPDX-License-Identifier: Apache-2.0
"""Where what is made of a scene goes."""

from __future__ import annotations

from pathlib import Path

from utils.file_formats import FILE_FORMATS


def default_path(run: Path, format: str, iteration: int | None = None) -> Path:
    """RUN/export/NAME.FORMAT, or export/NAME.FORMAT beside a .ply file; NAME tells an iteration that was asked for."""
    folder, name = (run.parent, run.stem) if run.is_file() else (run, run.resolve().name)
    return folder / "export" / (name + ("" if iteration is None else f"_{iteration}") + FILE_FORMATS[format].suffix)
