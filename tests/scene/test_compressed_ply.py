# SPDX-License-Identifier: Apache-2.0
"""PlayCanvas's compressed PLY, which SuperSplat writes, is read as its specification and its program have it."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.recfunctions import rename_fields, repack_fields
from plyfile import PlyData, PlyElement

from export.compressed_ply import write_compressed_ply
from export.options import Options
from scene.gaussian_model import GaussianModel
from scene.ply import PlyError
from tests.export.npm_packages import splat_transform
from tests.export.readers import read_compressed_ply
from tests.export.scenes import lopsided


def written(folder: Path, degree: int = 1, antialiased: bool = False) -> Path:
    """300 Gaussians, two groups; opacities and view dependence reach the ends of their ranges."""
    cloud = lopsided(degree)
    cloud.antialiased = antialiased
    parameters = cloud.parameters_in_order()
    parameters["opacity"].data[:2] = torch.tensor([[30.0], [-30.0]])
    parameters["f_rest"].data[:4] *= 100
    out = folder / "scene.compressed.ply"
    write_compressed_ply(cloud, out, Options(up="z"))
    return out


def changed(path: Path, **elements: np.ndarray | None) -> Path:
    """The file with elements replaced, or without them (None)."""
    kept: Mapping[str, np.ndarray] = {element.name: element.data for element in PlyData.read(str(path)).elements} | elements
    out = path.with_name("changed.ply")
    PlyData([PlyElement.describe(data, name) for name, data in kept.items() if data is not None], byte_order="<").write(str(out))
    return out


def elements_of(path: Path) -> dict[str, np.ndarray]:
    return {element.name: np.array(element.data) for element in PlyData.read(str(path)).elements}


def assert_same(one: GaussianModel, other: GaussianModel, within: float) -> None:
    """Parameters, but for opacities, which are compared themselves: their logits may be infinite."""
    mine, theirs = one.parameters_in_order(), other.parameters_in_order()
    for name in ("xyz", "f_dc", "f_rest", "scaling"):
        assert torch.allclose(mine[name], theirs[name], atol=within), name
    assert torch.allclose(one.get_opacity, other.get_opacity, atol=within)
    assert torch.allclose((one.get_rotation * other.get_rotation).sum(dim=1).abs(), torch.ones(len(one.get_xyz)), atol=within)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_it_is_read_by_its_specification(tmp_path, degree) -> None:
    path = written(tmp_path, degree)
    read = GaussianModel.from_ply(path)
    ends = read.parameters_in_order()["f_rest"].abs() > 3.98  # the reader of the tests takes the middle of the outermost steps
    specified = read_compressed_ply(path).model()
    specified.parameters_in_order()["f_rest"].data[ends] = read.parameters_in_order()["f_rest"].data[ends]
    assert len(read.get_xyz) == 300 and read.max_sh_degree == degree
    assert set(read.parameters_in_order()["f_rest"][ends].tolist()) == ({-4.0, 4.0} if degree else set())
    assert_same(read, specified, 2e-6)


@pytest.mark.parametrize("antialiased", [False, True])
def test_it_is_read_as_playcanvas_reads_it(tmp_path, antialiased) -> None:
    path = written(tmp_path, antialiased=antialiased)
    splat_transform(path, tmp_path / "plain.ply")
    read, theirs = GaussianModel.from_ply(path), GaussianModel.from_ply(tmp_path / "plain.ply")
    assert read.antialiased == theirs.antialiased == antialiased
    assert_same(read, theirs, 1e-5)


def test_what_playcanvas_writes_is_read(tmp_path) -> None:
    plain = tmp_path / "plain.ply"
    lopsided(2).save_ply(str(plain))
    splat_transform(plain, tmp_path / "theirs.compressed.ply")
    splat_transform(tmp_path / "theirs.compressed.ply", tmp_path / "back.ply")
    assert_same(GaussianModel.from_ply(tmp_path / "theirs.compressed.ply"), GaussianModel.from_ply(tmp_path / "back.ply"), 1e-5)


def test_colours_of_the_first_version_have_no_ranges(tmp_path) -> None:
    path = written(tmp_path, 0)
    elements = elements_of(path)
    names = [name for name in elements["chunk"].dtype.names if name[-2:] not in ("_r", "_g", "_b")]
    read = GaussianModel.from_ply(changed(path, chunk=repack_fields(elements["chunk"][names])))
    red = (elements["vertex"]["packed_color"] >> 24) / 255
    assert torch.allclose(read.parameters_in_order()["f_dc"][:, 0, 0].double(), torch.tensor((red - 0.5) / 0.28209479177387814), atol=1e-5)


def test_groups_with_damaged_ranges_are_left_out_with_a_notice(tmp_path, caplog) -> None:
    path = written(tmp_path)
    chunk = elements_of(path)["chunk"]
    for k, name in enumerate(("max_x", "min_scale_y", "max_g")):
        chunk[name][1] = (np.nan, np.inf, -np.inf)[k]
        with caplog.at_level(logging.WARNING):
            assert len(GaussianModel.from_ply(changed(path, chunk=chunk)).get_xyz) == 256
        assert "44 of 300 rows are left out" in caplog.text
        chunk[name][1] = chunk[name][0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: {"chunk": None}, "no 'chunk' element"),
        (lambda found: {"chunk": found["chunk"][:1]}, "1 group of 256 for 300 Gaussians"),
        (lambda found: {"chunk": np.concatenate([found["chunk"]] * 2)}, "4 groups of 256 for 300 Gaussians"),
        (lambda found: {"chunk": rename_fields(found["chunk"], {"min_g": "min_q"})}, "lacks the chunk fields min_g"),
        (lambda found: {"sh": found["sh"][:7]}, "view dependence of 7 of 300 Gaussians"),
        (lambda found: {"sh": found["sh"].astype([(name, "f4") for name in found["sh"].dtype.names])}, "f_rest_0 as float32; expected whole numbers of 8 bits"),
        (lambda found: {"vertex": found["vertex"].astype([(name, "f8") for name in found["vertex"].dtype.names])}, "packed_position as float64"),
        (lambda found: {"sh": repack_fields(found["sh"][["f_rest_0", "f_rest_1"]])}, "2 f_rest fields"),
        (lambda found: {"vertex": repack_fields(found["vertex"][["packed_position", "packed_scale"]])}, "packed_rotation, packed_color"),
        (lambda found: {"vertex": found["vertex"][:0], "chunk": found["chunk"][:0], "sh": found["sh"][:0]}, "0 vertices"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, change, told) -> None:
    path = written(tmp_path)
    damaged = changed(path, **change(elements_of(path)))
    with pytest.raises(PlyError) as caught:
        GaussianModel.from_ply(damaged)
    assert told in str(caught.value) and str(damaged) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    start = content.index(b"end_header\n") + len(b"end_header\n")
    for length in (*range(0, start, 97), *np.linspace(start, len(content) - 1, 23).astype(int)):
        path.write_bytes(content[:length])
        with pytest.raises(PlyError):
            GaussianModel.from_ply(path)


def test_text_is_refused(tmp_path) -> None:
    path = written(tmp_path)
    data = PlyData.read(str(path))
    PlyData(data.elements, text=True).write(str(tmp_path / "text.ply"))
    with pytest.raises(PlyError, match="holds text or lists; expected numbers in binary form"):
        GaussianModel.from_ply(tmp_path / "text.ply")
