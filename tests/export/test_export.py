# SPDX-License-Identifier: Apache-2.0
"""tools/export.py: where files go, and a sentence for everything that a user can get wrong."""

import dataclasses
import importlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from evaluation import orbit_flags
from export import FORMATS, export, mesh
from export.options import Options, default_path
from scene.gaussian_model import GaussianModel
from scene.ply_file import compress
from tests.export.readers import read_splat
from tests.export.scenes import N, run_folder
from tests.scene.foreign_ply import rows, write
from tools import contact_sheet
from tools.export import main
from utils.file_formats import FILE_FORMATS, READ, format_of


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


def test_a_run_folder_of_lucid_dreamer_is_a_scene_too(run, capsys) -> None:
    """It has no config.yaml."""
    for path in run.glob("*.*"):
        path.unlink()
    assert [path.name for path in run.iterdir()] == ["point_cloud"]
    assert main([str(run), "--format", "splat"]) == 0 and len(read_splat(run / "export" / "mug.splat").xyz) == N


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
    assert "text.ply is not a PLY file" in refused(capsys, tmp_path / "text.ply", "--format", "spz")
    run_folder(tmp_path / "two", 2)
    assert "has SH degree 2 and cannot be padded to 1" in refused(
        capsys, tmp_path / "two", "--format", "ply", "--pad_sh", 1
    )
    for up in ("x", "Y", "-z"):
        with pytest.raises(SystemExit):
            main([str(run), "--format", "ply", "--up", up])
        assert f"argument --up: invalid choice: '{up}' (choose from 'y', '-y', 'z')" in capsys.readouterr().err
        with pytest.raises(ValueError, match=f"up = {up}: expected one of y, -y, z"):
            Options(up=up)
    assert "spz_version = 4: expected 2 or 3" in refused(capsys, run, "--format", "spz", "--spz_version", 4)
    assert not (run / "export").exists()
    assert "cannot be padded to 4" in refused(capsys, run, "--format", "ply", "--pad_sh", 4)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_no_run_s_own_cloud_is_replaced(run, capsys, monkeypatch, is_compressed) -> None:
    """Not that of another iteration or run either: point_clouds takes a plain file before the compressed one."""
    clouds = [run / "point_cloud" / f"iteration_{k}" / "point_cloud.ply" for k in (5, 10)]
    kept = [compress(cloud) if is_compressed else cloud for cloud in clouds]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    told = "is where a run keeps its cloud; give a path of a new .ply file"
    for given in (run, kept[1]):
        assert told in refused(capsys, given, "--format", "ply", "--out", clouds[0])
        assert ("is the cloud itself" if not is_compressed else told) in refused(capsys, given, "--out", clouds[1])
    monkeypatch.chdir(clouds[0].parent)
    assert told in refused(capsys, run, "--out", "point_cloud.ply")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert export(run, "ply", clouds[0].with_name("mine.ply")).is_file()


def test_a_compressed_cloud_is_exported_like_a_plain_one(run) -> None:
    cloud = run / "point_cloud" / "iteration_10" / "point_cloud.ply"
    plain = export(run, "ply").read_bytes()
    packed = compress(cloud)
    assert export(run, "ply").read_bytes() == plain
    beside = export(packed, "ply")
    assert beside == cloud.parent / "export" / "point_cloud.ply" and beside.read_bytes() == plain


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
    assert all(f"  {name}" in told and format.description in told for name, format in FORMATS.items())


# names of files and options


@pytest.mark.parametrize("format", FORMATS)
def test_the_suffix_tells_the_format(run, tmp_path, capsys, format) -> None:
    suffix = FILE_FORMATS[format].suffix
    assert format_of(tmp_path / f"A{suffix.upper()}") == format
    if format != "glb":
        assert main([str(run), "--out", str(tmp_path / f"a{suffix}")]) == 0
        assert (tmp_path / f"a{suffix}").stat().st_size > 0
    for end in (FILE_FORMATS[other].suffix for other in FORMATS if other != format):
        if not suffix.endswith(end):  # Gaussians in glTF may be called .glb
            told = refused(capsys, run, "--format", format, "--out", tmp_path / f"b{end}")
            assert f"b{end} ends in {end}, and the format is {format}; expected {suffix}" in told
    for name, has in (("b.xyz", "ends in .xyz"), ("b", "has no suffix"), ("b.ply.gz", "ends in .gz")):
        told = refused(capsys, run, "--format", format, "--out", tmp_path / name)
        assert has in told and "expected one of .ply, .compressed.ply, .splat, .spz, .sog, .glb, .gs.glb, .html" in told
        assert has in refused(capsys, run, "--out", tmp_path / name)
        assert not (tmp_path / name).exists()
    assert "no format was given; give --format" in refused(capsys, run)


def test_nothing_is_written_where_one_of_the_formats_is_unknown(run, capsys) -> None:
    assert "did you mean spz?" in refused(capsys, run, "--format", "ply", "spzz")
    assert not (run / "export").exists()


@pytest.mark.parametrize("given", [["--up", "-y"], ["--up=-y"]])
def test_the_axis_that_points_up_may_be_negative(run, given) -> None:
    """argparse takes a word that begins with a dash for a flag."""
    assert main([str(run), "--format", "ply", *given]) == 0
    expected = export(run, "ply", run / "expected.ply", Options(up="-y"))
    assert (run / "export" / "mug.ply").read_bytes() == expected.read_bytes()


def test_gaussians_in_gltf_stand_beside_the_mesh(run) -> None:
    """Two formats share the suffix .glb: neither export replaces the other's file."""
    paths = {format: default_path(run, format) for format in FORMATS}
    assert len(set(paths.values())) == len(FORMATS)
    assert export(run, "gsglb", run / "mug.glb").read_bytes() == export(run, "gsglb").read_bytes()


def test_a_scene_is_read_once_for_several_formats(tmp_path, caplog) -> None:
    """So that what it leaves out is told once."""
    cloud = write(tmp_path / "c.ply", rows(3, opacity=[1.0, float("nan"), 1.0]))
    assert main([str(cloud), "--format", "ply", "splat", "html"]) == 0
    assert len(caplog.records) == 1 and len(list((tmp_path / "export").iterdir())) == 3


VALUES = {"pad_sh": "3", "up": "-y", "spz_version": "2", "title": "x", "background": "black", "faces": "500", "texture_px": "64", "grid": "16"}


@pytest.mark.parametrize("option", VALUES)
def test_an_option_without_effect_is_told_in_a_line(run, capsys, caplog, monkeypatch, option) -> None:
    """For every option and format; and where one of several formats honours it, nothing is told."""
    assert set(VALUES) == {field.name for field in dataclasses.fields(Options)} - {"iteration", "device"}
    given = [f"--{option}", VALUES[option]]
    monkeypatch.setattr("tools.export.exports", lambda run, *_: [run / "point_cloud" / "iteration_5" / "point_cloud.ply"])
    users = [name for name in FORMATS if option in FILE_FORMATS[name].options]
    for format in FORMATS:
        caplog.clear()
        assert main([str(run), "--format", format, *given]) == 0
        told = [record.getMessage() for record in caplog.records]
        assert told == ([] if format in users else [f"export: --{option} has no effect on {format}; it is for {', '.join(users)}"])
    caplog.clear()
    assert main([str(run), "--format", *FORMATS, *given]) == 0 and not caplog.records
    others = [name for name in FORMATS if name not in users]
    assert main([str(run), "--format", *others, *given]) == 0
    assert caplog.records[0].getMessage().startswith(f"export: --{option} has no effect on {', '.join(others)}; it is for ")


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "glb"])
def test_an_option_changes_the_files_of_those_formats_that_honour_it(tmp_path, format, option) -> None:
    run = run_folder(tmp_path / "mug", 1)
    value = {"up": "-y", "background": (0.0, 0.0, 0.0), "title": "other"}.get(option) or int(VALUES[option])
    name = f"a{FILE_FORMATS[format].suffix}"
    plain = export(run, format, tmp_path / name).read_bytes()
    changed = export(run, format, tmp_path / "b" / name, Options(**{option: value})).read_bytes()
    assert (plain != changed) == (option in FILE_FORMATS[format].options)


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in READ])
def test_a_scene_of_another_format_is_named(tmp_path, capsys, format) -> None:
    from tools.contact_sheet import main as contact_sheet
    from tools.turntable import main as turntable

    suffix = FILE_FORMATS[format].suffix.upper()
    given = tmp_path / f"scene{suffix}"
    given.write_bytes(b"anything")
    told = f"scene{suffix} is a file of the format {format}, which is not read; give a .ply file"
    assert told in refused(capsys, given, "--format", "ply")
    assert turntable([str(given)]) == 2 and told in capsys.readouterr().err
    assert contact_sheet([str(given), "--out", str(tmp_path / "s.png")]) == 2
    assert told in capsys.readouterr().err


def test_a_compressed_ply_is_a_scene(run, tmp_path, capsys) -> None:
    """An export of it is named as one of the plain file would be, so that no plain PLY is called compressed."""
    from tools.turntable import main as turntable

    given = export(run, "compressed.ply", tmp_path / "small.Compressed.PLY", Options(up="z"))
    assert main([str(given), "--format", "ply", "splat", "compressed.ply", "--up", "z"]) == 0
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["small.compressed.ply", "small.ply", "small.splat"]
    first, again = (GaussianModel.from_ply(path) for path in (given, tmp_path / "export" / "small.ply"))
    assert torch.equal(first.get_xyz, again.get_xyz)
    assert turntable([str(given), "--frames", "2", "--size_px", "16"]) == 0 and (tmp_path / "export" / "small.mp4").is_file()


def test_videos_and_sheets_are_named_as_what_they_are(run, tmp_path, capsys) -> None:
    from tools.contact_sheet import main as contact_sheet
    from tools.show_cameras import main as show_cameras
    from tools.side_by_side import main as side_by_side
    from tools.turntable import main as turntable

    few = ["--frames", "1", "--size_px", "16"]
    for tool, words, suffix in (
        (turntable, [str(run), *few], ".mp4"),
        (side_by_side, [str(run), str(run), *few], ".mp4"),
        (show_cameras, [], ".png"),
        (contact_sheet, [str(run)], ".png"),
    ):
        for name in ("a.ply", "a.avi", "a"):
            try:
                status = tool([*words, "--out", str(tmp_path / name)])
            except SystemExit as end:
                status = end.code
            assert status == 2 and f"expected {suffix}" in capsys.readouterr().err
            assert not (tmp_path / name).exists()


def test_the_documents_tell_the_same_formats_and_options() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
    for name, format in FILE_FORMATS.items():
        if name in FORMATS:
            row = re.findall(rf"^\| `{re.escape(name)}` \| ([^|]*)\|[^|]*\|[^|]*\|$", page, re.MULTILINE)[0]
            assert re.findall(r"--(\w+)", row) == list(format.options)


@pytest.mark.parametrize("format", FORMATS)
def test_a_scene_without_gaussians_is_a_sentence_and_no_file(run, tmp_path, format) -> None:
    """A file with none, as an earlier version could leave one, and a model with none in each writer."""
    cloud = tmp_path / "empty.ply"
    header, _, _ = (run / "point_cloud" / "iteration_5" / "point_cloud.ply").read_bytes().partition(b"end_header\n")
    cloud.write_bytes(re.sub(rb"element vertex \d+", b"element vertex 0", header) + b"end_header\n")
    with pytest.raises(ValueError, match="holds 0 vertices; expected at least one point"):
        export(cloud, format)
    full = GaussianModel.from_ply(run / "point_cloud" / "iteration_5" / "point_cloud.ply")
    none = GaussianModel.of_parameters({name: value[:0] for name, value in full.parameters_in_order().items()})
    with pytest.raises(ValueError, match="holds no Gaussian"):
        FORMATS[format].write(none, tmp_path / f"none.{format}", Options())
    assert not (tmp_path / "export").exists() and not (tmp_path / f"none.{format}").exists()


@pytest.mark.parametrize("tool", ["export", "turntable", "side_by_side", "contact_sheet"])
def test_an_out_that_cannot_be_written_is_refused_before_the_work(run, tmp_path, capsys, monkeypatch, tool) -> None:
    """Where a mesh or a video takes a minute."""
    suffix = {"export": ".glb", "contact_sheet": ".png"}.get(tool, ".mp4")
    monkeypatch.setattr(mesh, "framing", _worked)
    monkeypatch.setattr(orbit_flags, "framing", _worked)
    monkeypatch.setattr(contact_sheet, "framing", _worked)
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder{suffix}").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for out in (f"folder{suffix}", f"file/out{suffix}", "a" * 252 + suffix):
        main_of = importlib.import_module(f"tools.{tool}").main
        assert main_of([str(run), "--out", str(tmp_path / out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{tool}: ") and str(tmp_path / out) in line
    assert sorted(tmp_path.rglob("*")) == before


def _worked(*_: object) -> None:
    raise AssertionError("the work has begun")


def test_what_is_neither_a_file_nor_a_folder_is_named(tmp_path, capsys) -> None:
    os.mkfifo(tmp_path / "c.ply")
    assert "c.ply is neither a file nor a folder" in refused(capsys, tmp_path / "c.ply", "--format", "ply")
