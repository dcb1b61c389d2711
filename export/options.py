# SPDX-License-Identifier: Apache-2.0
"""Options of an export beyond its format, where its file goes, and the message for a missing library."""

import importlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from export.cloud import UP
from utils.file_formats import FILE_FORMATS, stem_of
from utils.missing_module import how_to_install

SPZ_VERSIONS = (2, 3)
GENERATOR = "CoGrad3D"
"""What a glTF file says that it was made by."""
BOUNDS = {"faces": (100, 2_000_000), "texture_px": (64, 8192), "grid": (16, 512)}


@dataclass(frozen=True)
class Options:
    """utils/file_formats.py says which format honours which. Raises ValueError for a number out of its bounds."""

    iteration: int | None = None  # of the run's clouds; None: the last
    pad_sh: int | None = None  # ply: zeros up to this SH degree, for readers that expect degree 3
    up: str = "y"  # ply, compressed.ply, splat, spz, sog: the axis that points up; training's is z
    spz_version: int = 3  # spz: 2 for readers of 2024
    title: str = ""  # html: shown in a corner; empty: the file's name
    faces: int = 20_000  # glb: about so many triangles
    texture_px: int = 1024  # glb: side of the texture
    grid: int = 192  # glb: points along the longest side of the density's grid
    device: str | torch.device = "cpu"  # glb: where images are rendered
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)  # html: red, green, blue in 0..1

    def __post_init__(self) -> None:
        if self.up not in UP:
            raise ValueError(f"up = {self.up}: expected one of {', '.join(UP)}.")
        if self.spz_version not in SPZ_VERSIONS:
            raise ValueError(f"spz_version = {self.spz_version}: expected 2 or 3.")
        for name, (least, most) in BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: expected a whole number from {least} to {most}.")


def default_path(run: Path, format: str, iteration: int | None = None) -> Path:
    """RUN/export/NAME.FORMAT, or export/NAME.FORMAT beside a .ply file; NAME ends with a given iteration."""
    folder, name = (run.parent, stem_of(run)) if run.is_file() else (run, run.resolve().name)
    return folder / "export" / (name + ("" if iteration is None else f"_{iteration}") + FILE_FORMATS[format].suffix)


def name_inside(out: Path) -> str:
    """What 3D programs call the object of a file: the file's name without its suffix, as one line."""
    return one_line(stem_of(out))


def one_line(text: str) -> str:
    """Text of any origin as one line of valid Unicode without control characters."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in clean).split())


def library(name: str) -> ModuleType:
    """An optional library. Raises ValueError, one sentence, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"this export needs {name}, which is not installed: {how_to_install()}") from error
