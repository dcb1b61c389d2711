# SPDX-License-Identifier: Apache-2.0
"""Gaussians as PLY, and through gaussforge as splat, spz and sog.

Of gaussforge 0.6.0 it was found, and is taken care of here, that it converts no axes (spz must be y up, the field's PLY
is y down), and that its sog takes quaternions for unit ones, which training's are not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from scene.gaussian_model import GaussianModel
from scene.ply import write_vertices
from tools.exporting.cloud import Y_DOWN, Y_UP, padded, turned
from tools.exporting.options import Options, library
from utils.general_utils import atomic_path


def write_ply(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Upstream's fields and activations, y down."""
    gaussians = _placed(gaussians, Y_DOWN, options)
    if options.pad_sh is not None:
        gaussians = padded(gaussians, options.pad_sh)
    write_vertices(out, gaussians.as_vertices())


def write_splat(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """32 bytes a Gaussian: position and scale as floats, colour, opacity and quaternion as bytes; y down."""
    _convert(_placed(gaussians, Y_DOWN, options), "splat", out)


def write_spz(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Niantic's, version 3; y up."""
    _convert(_placed(gaussians, Y_UP, options), "spz", out)


def write_sog(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """PlayCanvas's, version 2, in one file; y down, as its tools write what they read from a PLY."""
    _convert(_placed(gaussians, Y_DOWN, options), "sog", out)


def _placed(gaussians: GaussianModel, turn: torch.Tensor, options: Options) -> GaussianModel:
    return turned(gaussians, torch.eye(3) if options.keep_axes else turn)


def _convert(gaussians: GaussianModel, format: str, out: Path) -> None:
    """Raises ValueError where gaussforge is missing or refuses."""
    forge = library("gaussforge").GaussForge()
    with tempfile.TemporaryDirectory() as folder:
        write_vertices(Path(folder) / "cloud.ply", gaussians.as_vertices())
        answer = forge.convert((Path(folder) / "cloud.ply").read_bytes(), "ply", format)
    if "error" in answer:
        raise ValueError(f"gaussforge could not write {out}: {answer['error']}")
    with atomic_path(out) as temporary:
        temporary.write_bytes(answer["data"])
