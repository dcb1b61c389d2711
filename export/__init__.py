# SPDX-License-Identifier: Apache-2.0
"""A finished scene as a file that other programs open: export(run, format). docs/exports.md compares the formats."""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from evaluation.run_folder import cloud_of, is_saved_cloud
from export import compressed_ply, gltf_splats, limits, mesh, page, splats
from export.options import Options, default_path
from scene.gaussian_model import GaussianModel
from utils.file_formats import FILE_FORMATS, SCENES, check_suffix
from utils.general_utils import check_writable

logger = logging.getLogger(__name__)


Check = Callable[[GaussianModel, Options], None]
"""Raises ValueError, one sentence, for what the writer would refuse: what its format cannot hold, a missing library."""
Writer = Callable[[GaussianModel, Path, Options], None]


class Format(NamedTuple):
    """What a format is, in a line for people, what is checked before any file is written, and its writer."""

    description: str
    check: Check
    write: Writer


def _held_by(format: str) -> Check:
    return lambda gaussians, options: limits.check(gaussians, format)


WRITERS: dict[str, tuple[Check, Writer]] = {
    "ply": (splats.check_ply, splats.write_ply),
    "compressed.ply": (_held_by("compressed.ply"), compressed_ply.write_compressed_ply),
    "splat": (partial(splats.check_converted, "splat"), splats.write_splat),
    "spz": (partial(splats.check_converted, "spz"), splats.write_spz),
    "sog": (partial(splats.check_converted, "sog"), splats.write_sog),
    "glb": (mesh.check_glb, mesh.write_glb),
    "gsglb": (_held_by("gsglb"), gltf_splats.write_gltf_splats),
    "html": (page.check_page, page.write_page),
}
MARKED, UNMARKED = ("ply", "compressed.ply", "spz", "sog"), ("splat", "gsglb")
"""Formats that other programs draw, and that can or cannot say that Gaussians are to be rendered antialiased."""
FORMATS: dict[str, Format] = {name: Format(FILE_FORMATS[name].description, *WRITERS[name]) for name in SCENES}
"""Name -> format."""


def check_known(format: str) -> None:
    """Raises ValueError, which names the nearest, for what is no format of an export."""
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, 1, 0.4)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown export format {format!r}{hint}; expected one of {', '.join(FORMATS)}.")


def export(run: Path, format: str, out: Path | None = None, options: Options | None = None) -> Path:
    """Write the scene of a run folder, or of one .ply file, and return where.

    `out` None: RUN/export/NAME.FORMAT, beside the .ply file in a folder `export` where that was given. The file appears
    whole or not at all. Raises ValueError, one sentence, for all that a user can get wrong, and OSError.
    """
    [path] = exports(run, [format], out, options)
    return path


def exports(
    run: Path, formats: Sequence[str], out: Path | None = None, options: Options | None = None
) -> Iterator[Path]:
    """As `export`, of a scene that is read once: each format's path, when it has been written.

    What one of the formats cannot hold is found before the first is written.
    """
    run, options = Path(run), options or Options()
    for format in formats:
        check_known(format)
        if out is not None and not Path(out).is_dir():
            check_suffix(Path(out), format)
    cloud = cloud_of(run, options.iteration)
    paths = [Path(out) if out is not None else default_path(run, format, options.iteration) for format in formats]
    for format, path in zip(formats, paths):
        _check_place(path, cloud, format)
    gaussians = GaussianModel.from_ply(cloud)
    for format in formats:
        FORMATS[format].check(gaussians, options)
    if gaussians.antialiased:
        _report_antialiased(formats)
    for format, path in zip(formats, paths):
        FORMATS[format].write(gaussians, path, options)
        yield path


def _check_place(path: Path, cloud: Path, format: str) -> None:
    """Raises ValueError where a file at `path` would replace a scene, which an export is not, and OSError."""
    replaced = {"a folder": path.is_dir(), "the cloud itself": path.resolve() == cloud.resolve()}
    replaced["where a run keeps its cloud"] = is_saved_cloud(path)  # plain, it goes before a compressed one
    for what, is_so in replaced.items():
        if is_so:
            raise ValueError(f"{path} is {what}; give a path of a new .{format} file.")
    check_writable(path)


def _report_antialiased(formats: Sequence[str]) -> None:
    """A line on what viewers must do with Gaussians that were trained with the Mip filter."""
    marked, unmarked = ([name for name in formats if name in kind] for kind in (MARKED, UNMARKED))
    has = [f"{', '.join(marked)}: marked as antialiased"] * bool(marked)
    has += [f"{', '.join(unmarked)}: no mark is possible"] * bool(unmarked)
    if has:
        logger.warning(
            "trained with the Mip filter (%s): too thick in viewers that do not render antialiased. Those that "
            "read no mark need their switch: antialiased: true (mkkellogg), scene.gsplat.antiAlias (PlayCanvas), "
            "GaussianSplattingMaterial.Compensation (Babylon.js); Spark needs none",
            "; ".join(has),
        )
