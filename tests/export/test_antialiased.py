# SPDX-License-Identifier: Apache-2.0
"""Gaussians trained with the Mip filter keep that through every export, or a line says what a viewer must be told."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from arguments import PipelineParams
from export import FORMATS, MARKED, UNMARKED, export, exports
from export.cloud import padded, rotated
from export.limits import fitted
from export.options import Options
from gaussian_renderer import render
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from tests.export.npm_packages import splat_transform
from tests.export.readers import READERS
from tests.export.scenes import lopsided
from utils.file_formats import FILE_FORMATS


def cloud_of(folder: Path, antialiased: bool = True) -> Path:
    gaussians = lopsided()
    gaussians.antialiased = antialiased
    gaussians.save_ply(folder / "cloud.ply")
    return folder / "cloud.ply"


def is_marked(path: Path, format: str) -> bool:
    return GaussianModel.from_ply(path).antialiased if format == "ply" else READERS[format](path).antialiased


@pytest.mark.parametrize("antialiased", [True, False])
@pytest.mark.parametrize("format", MARKED)
def test_a_format_with_a_mark_has_it(tmp_path, format, antialiased) -> None:
    written = export(cloud_of(tmp_path, antialiased), format, tmp_path / f"out{FILE_FORMATS[format].suffix}")
    assert is_marked(written, format) == antialiased


@pytest.mark.parametrize("version", [2, 3])
def test_the_mark_changes_nothing_else_in_spz(tmp_path, version) -> None:
    files = []
    for antialiased in (True, False):
        cloud = cloud_of(tmp_path, antialiased)
        files.append(READERS["spz"](export(cloud, "spz", tmp_path / "out.spz", Options(spz_version=version))))
    assert [file.antialiased for file in files] == [True, False]
    for name in ("xyz", "log_scale", "wxyz", "dc", "opacity"):
        assert np.array_equal(getattr(files[0], name), getattr(files[1], name)), name


def test_ply_has_the_comment_that_others_read(tmp_path) -> None:
    assert PlyData.read(str(cloud_of(tmp_path))).comments == ["SplatRenderMode: mip"]
    assert PlyData.read(str(cloud_of(tmp_path, False))).comments == []


def test_copies_of_a_cloud_are_rendered_as_it_is() -> None:
    gaussians = lopsided()
    gaussians.antialiased = True
    copies = [rotated(gaussians, torch.eye(3)), padded(gaussians, 3), fitted(gaussians, "splat")]
    assert all(copy.antialiased for copy in copies)


def test_a_line_says_what_viewers_must_be_told(tmp_path, caplog) -> None:
    """Once for all formats; not of pages and meshes, which are drawn and baked through the filter."""
    with caplog.at_level(logging.WARNING):
        list(exports(cloud_of(tmp_path), ["ply", "splat", "gsglb", "html"]))
    [line] = [record.getMessage() for record in caplog.records if "Mip filter" in record.getMessage()]
    assert "(ply: marked as antialiased; splat, gsglb: no mark is possible)" in line and "antialiased: true (mkkellogg)" in line
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        list(exports(cloud_of(tmp_path), ["html"]))
        list(exports(cloud_of(tmp_path, antialiased=False), ["ply", "splat"]))
    assert not [record for record in caplog.records if "Mip filter" in record.getMessage()]


def test_every_format_is_marked_or_known_to_have_none() -> None:
    assert set(MARKED) | set(UNMARKED) | {"glb", "html"} == set(FORMATS)


def test_splat_transform_reads_the_marked_files(tmp_path) -> None:
    """And finds the mark in each: the PLY that it makes of them has it, or not, as they have."""
    for antialiased in (True, False):
        cloud = cloud_of(tmp_path, antialiased)
        for format in MARKED:
            written = export(cloud, format, tmp_path / f"out{FILE_FORMATS[format].suffix}")
            splat_transform(written, tmp_path / f"{format}_back.ply")
            back = GaussianModel.from_ply(tmp_path / f"{format}_back.ply")
            assert len(back.get_xyz) == len(lopsided().get_xyz) and back.antialiased == antialiased, format


def test_a_marked_ply_is_rendered_antialiased(tmp_path) -> None:
    """From afar, where the Gaussians are smaller than pixels: with the mark the cloud is fainter."""
    camera, black = camera_at(30.0, 65.0, 40.0, 0.4, 48, 40), torch.zeros(3)
    covered = {}
    for antialiased in (True, False):
        cloud = GaussianModel.from_ply(cloud_of(tmp_path, antialiased))
        with torch.no_grad():
            covered[antialiased] = float((1 - render(camera, cloud, PipelineParams(), black)["alpha"]).sum())
    assert 0 < covered[True] < 0.8 * covered[False]
