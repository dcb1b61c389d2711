# SPDX-License-Identifier: Apache-2.0
"""tools/export.py: where files go, and a sentence for everything that a user can get wrong."""

import shutil
import sys

import pytest

from scene.gaussian_model import GaussianModel
from tests.tools.exporting.readers import read_splat
from tests.tools.exporting.scenes import N, run_folder
from tools.export import main
from tools.exporting import FORMATS, export
from tools.exporting.options import Options


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "mug")


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export: ")
    return line


def test_a_run_is_exported_below_itself_in_several_formats(run, capsys) -> None:
    assert main([str(run), "--format", "ply", "splat"]) == 0
    told = capsys.readouterr().out.splitlines()
    for line, name in zip(told, ("mug.ply", "mug.splat"), strict=True):
        path = run / "export" / name
        assert line.startswith(f"{path}: {path.stat().st_size:,} bytes in ")
    assert sorted(path.name for path in (run / "export").iterdir()) == ["mug.ply", "mug.splat"]


def test_a_ply_file_of_any_degree_is_a_scene_too(tmp_path, golden_dir) -> None:
    for degree in (0, 2):
        cloud = tmp_path / f"cloud{degree}.ply"
        shutil.copy(golden_dir / f"point_cloud_sh{degree}" / "point_cloud.ply", cloud)
        assert export(cloud, "ply") == tmp_path / "export" / f"cloud{degree}.ply"
        assert GaussianModel.from_ply(tmp_path / "export" / f"cloud{degree}.ply").max_sh_degree == degree


def test_iteration_and_out_are_followed(run, tmp_path) -> None:
    GaussianModel.from_ply(run / "point_cloud" / "iteration_5" / "point_cloud.ply").save_ply(tmp_path / "five.ply")
    cut = GaussianModel.from_ply(tmp_path / "five.ply")
    cut = GaussianModel.of_parameters({name: value[:3] for name, value in cut.parameters_in_order().items()})
    cut.save_ply(run / "point_cloud" / "iteration_5" / "point_cloud.ply")
    assert len(read_splat(export(run, "splat", tmp_path / "deep" / "a.splat", Options(iteration=5))).xyz) == 3
    assert len(read_splat(export(run, "splat")).xyz) == N
    assert export(run, "splat", options=Options(iteration=5)).name == "mug_5.splat"


def test_refusals_are_one_sentence(run, tmp_path, capsys) -> None:
    assert "did you mean splat?" in refused(capsys, run, "--format", "splatt")
    assert "gone does not exist; give a run folder or a .ply file" in refused(
        capsys, tmp_path / "gone", "--format", "ply"
    )
    (tmp_path / "empty").mkdir()
    assert "holds no point_cloud/iteration_K" in refused(capsys, tmp_path / "empty", "--format", "ply")
    assert "holds those of 5, 10" in refused(capsys, run, "--format", "ply", "--iteration", 7)
    assert "is a folder" in refused(capsys, run, "--format", "ply", "--out", tmp_path)
    assert "names one file and 2 formats" in refused(capsys, run, "--format", "ply", "spz", "--out", tmp_path / "a")
    cloud = run / "point_cloud" / "iteration_10" / "point_cloud.ply"
    assert "is the cloud itself" in refused(capsys, cloud, "--format", "ply", "--out", cloud)
    assert "iteration 3 was asked for" in refused(capsys, cloud, "--format", "ply", "--iteration", 3)
    assert "faces = 3: expected a whole number from 100 to 2000000" in refused(
        capsys, run, "--format", "glb", "--faces", 3
    )
    assert "'blau': expected white, black, grey or #rrggbb" in refused(
        capsys, run, "--format", "html", "--background", "blau"
    )
    (tmp_path / "text.ply").write_text("no cloud")
    assert "text.ply is no PLY file" in refused(capsys, tmp_path / "text.ply", "--format", "spz")
    run_folder(tmp_path / "two", 2)
    assert "has SH degree 2 and cannot be padded to 1" in refused(
        capsys, tmp_path / "two", "--format", "ply", "--pad_sh", 1
    )
    assert "cannot be padded to 4" in refused(capsys, run, "--format", "ply", "--pad_sh", 4)


def test_a_cloud_of_too_high_a_degree_is_refused(tmp_path) -> None:
    from numpy.lib import recfunctions

    from scene.ply import read_vertices, write_vertices

    cloud = run_folder(tmp_path / "three", 3) / "point_cloud" / "iteration_10" / "point_cloud.ply"
    vertices = read_vertices(cloud)
    more = recfunctions.append_fields(vertices, "f_rest_45", vertices["x"], usemask=False)
    write_vertices(tmp_path / "more.ply", more)
    with pytest.raises(ValueError, match="46 f_rest fields; expected 0, 9, 24 or 45"):
        export(tmp_path / "more.ply", "ply")


@pytest.mark.parametrize(
    "format, missing",
    [
        ("spz", "gaussforge"),
        ("splat", "gaussforge"),
        ("sog", "gaussforge"),
        ("glb", "xatlas"),
        ("glb", "skimage.measure"),
    ],
)
def test_a_missing_library_is_told_with_its_remedy(run, monkeypatch, format, missing) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=f"needs {missing}.*pip install -r requirements-extra.txt"):
        export(run, format)
    assert not (run / "export" / f"mug.{format}").exists()


def test_help_names_every_format(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"  {name}" in told and format.told in told for name, format in FORMATS.items())
