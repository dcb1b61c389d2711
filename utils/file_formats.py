# SPDX-License-Identifier: Apache-2.0
"""The file formats of what is made of a scene: their suffixes, and the options of tools/export.py that each honours."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.general_utils import check_writable


class FileFormat(NamedTuple):
    """`description` is one line for the user; `options` are fields of export/options.py."""

    suffix: str
    description: str
    options: tuple[str, ...] = ()


FILE_FORMATS: dict[str, FileFormat] = {
    "ply": FileFormat(".ply", "Gaussians, nothing lost; every splat viewer and editor", ("pad_sh", "up")),
    "compressed.ply": FileFormat(
        ".compressed.ply", "Gaussians, compressed 3 to 4 times; PlayCanvas, SuperSplat, Spark", ("up",)
    ),
    "splat": FileFormat(".splat", "Gaussians, 32 bytes each, colours without view dependence; web viewers", ("up",)),
    "spz": FileFormat(".spz", "Gaussians, compressed 4 to 10 times; web and phone viewers", ("up", "spz_version")),
    "sog": FileFormat(".sog", "Gaussians, compressed 4 to 10 times; PlayCanvas, SuperSplat", ("up",)),
    "glb": FileFormat(
        ".glb",
        "a textured mesh, an approximation; every 3D program, games, phones",
        ("faces", "texture_px", "grid"),
    ),
    "gsglb": FileFormat(".gs.glb", "Gaussians in glTF, KHR_gaussian_splatting; PlayCanvas, Babylon.js, three.js"),
    "html": FileFormat(
        ".html",
        "one page with the Gaussians in it, to turn by mouse or finger; any browser, no network",
        ("title", "background"),
    ),
    "mp4": FileFormat(".mp4", "a video, H.264"),
    "png": FileFormat(".png", "an image"),
}
SCENES = ("ply", "compressed.ply", "splat", "spz", "sog", "glb", "gsglb", "html")
"""What a scene is exported to."""
READ = ("ply", "compressed.ply")
"""Formats of a scene that are read, too."""
XZ = ".xz"
"""The suffix after that of a compressed file: a run of an experiment keeps its cloud as point_cloud.ply.xz."""


def without_xz(path: Path) -> Path:
    """The path of the file that is compressed in `path`; where that is not compressed, itself."""
    return path.with_suffix("") if path.suffix.lower() == XZ else path


def format_of(path: Path, among: Sequence[str] = SCENES) -> str:
    """The format that a file's suffix names, large or small letters. Raises ValueError, which lists the known."""
    for name in sorted(among, key=lambda name: -len(FILE_FORMATS[name].suffix)):  # .compressed.ply before .ply
        if "".join(path.suffixes).lower().endswith(FILE_FORMATS[name].suffix):
            return name
    known = ", ".join(FILE_FORMATS[name].suffix for name in among)
    has = f"ends in {path.suffix}" if path.suffix else "has no suffix"
    raise ValueError(f"{path} {has}; expected {'one of ' if len(among) > 1 else ''}{known}.")


def check_out(path: Path, format: str) -> None:
    """Before the work: raises ValueError as `check_suffix` does, and OSError where no file can be written at `path`."""
    check_suffix(path, format)
    check_writable(path)


def check_suffix(path: Path, format: str) -> None:
    """Raises ValueError where a file to be written is not named as its format is: .gs.glb may be called .glb."""
    suffix = FILE_FORMATS[format].suffix
    found = format_of(path, SCENES if format in SCENES else (format,))
    if found != format and not suffix.endswith(FILE_FORMATS[found].suffix):
        ends = FILE_FORMATS[found].suffix
        raise ValueError(f"{path} ends in {ends}, and the format is {format}; expected {suffix}.")


def is_scene(path: Path) -> bool:
    """Whether the suffix is that of a scene's format, compressed or not."""
    return without_xz(path).suffix.lower() in {FILE_FORMATS[name].suffix for name in SCENES}


def check_is_read(path: Path) -> None:
    """Raises ValueError for a scene file of a format that is written here and not read."""
    if is_scene(path) and (format := format_of(without_xz(path))) not in READ:
        raise ValueError(f"{path} is a file of the format {format}, which is not read; give a .ply file.")


def stem_of(path: Path) -> str:
    """The name of a scene's file without its format's suffix, compressed or not."""
    name = without_xz(path)
    return name.name[: -len(FILE_FORMATS[format_of(name)].suffix)] if is_scene(path) else name.stem


def without_effect(options: Iterable[str], formats: Sequence[str]) -> list[str]:
    """A sentence for each of the given options that none of the formats honours."""
    lines = []
    for option in options:
        users = [name for name, format in FILE_FORMATS.items() if option in format.options]
        if users and not set(users) & set(formats):
            lines.append(f"--{option} has no effect on {', '.join(formats)}; it is for {', '.join(users)}")
    return lines
