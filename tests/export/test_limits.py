# SPDX-License-Identifier: Apache-2.0
"""Every writer with extreme and with impossible numbers in every field: right within the format's steps, or a sentence."""

import logging
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from export import FORMATS, export, gltf_splats, limits, mesh
from export.cloud import Y_UP, rotated
from export.compressed_ply import z_order
from export.options import Options
from scene.gaussian_model import GaussianModel
from tests.export.page_reader import read_page
from tests.export.readers import READERS, SH_C0, Splats
from tests.export.scenes import N, lopsided
from tests.scene.foreign_ply import GAUSSIAN, rows, write
from tools.export import main
from utils.file_formats import FILE_FORMATS

PARAMETERS = ("xyz", "f_dc", "f_rest", "opacity", "scaling", "rotation")
POINTS = [name for name in FORMATS if name != "glb"]
EXTREME = {
    "xyz": [1e-20, -2047.99, 2049.0, -3000.0, 1e6, 9e17],
    "scaling": [-80.0, -14.0, 5.9, 6.5, 12.0, 42.0],
    "f_dc": [1.9, -3.5, 100.0, 3e5, 1e17],
    "f_rest": [0.98, 1.5, -4.5, -1e17],
    "opacity": [-80.0, 80.0],
    "rotation": [1e-8, 1e6, 1e15],  # a factor
}
IMPOSSIBLE = {name: [math.nan, -math.inf, 3e38] for name in PARAMETERS}
EXACT = {"xyz": (0, 1e-6), "scaling": (1e-5, 0), "f_dc": (0, 1e-6), "f_rest": (2e-6, 2e-5)}
HELD = {  # of xyz, scaling, f_dc, f_rest: what a file can hold, as its description has it; None: no such bound
    "ply": {},
    "gsglb": {},
    "compressed.ply": {"scaling": (-20, 20), "f_dc": (-8, 8), "f_rest": (-4, 4)},
    "splat": {"f_dc": (-0.5 / SH_C0, 0.5 / SH_C0)},
    "spz": {"xyz": (-2048, 2048), "scaling": (-10, 95 / 16), "f_dc": (-0.5 / 0.15, 0.5 / 0.15), "f_rest": (-1, 127 / 128)},
    "sog": {"scaling": (-20, 10), "f_dc": (-8, 8), "f_rest": (-4, 4)},
    "html": {"scaling": (-13.8, 11.08), "f_dc": (-2.3e5, 2.3e5), "f_rest": (-4, 4)},
}
STEPS = {  # largest errors of xyz, scaling, f_dc, f_rest: absolute, and relative to the number
    "ply": EXACT,
    "gsglb": EXACT,
    "compressed.ply": {"xyz": (1e-6, 1e-6), "scaling": (1e-5, 0), "f_dc": (1e-5, 0), "f_rest": (0.51 / 32, 0)},
    "splat": {"xyz": (0, 1e-6), "scaling": (1e-5, 0), "f_dc": (1 / 255 / SH_C0, 0)},
    "spz": {"xyz": (0.51 / 4096, 0), "scaling": (0.51 / 16, 0), "f_dc": (0.51 / 255 / 0.15, 0), "f_rest": (8.51 / 128, 0)},
    "sog": {"xyz": (2e-3, 2e-3), "scaling": (0.1, 0), "f_dc": (0.06, 0), "f_rest": (0.08, 0)},
    "html": {"xyz": (0, 1e-6), "scaling": (1e-3, 0), "f_dc": (3e-3, 1e-3), "f_rest": (4.05 / 254, 0)},
}


def scene_with(parameter: str, value: float, all_rows: bool = False) -> GaussianModel:
    """lopsided(1), of which the first Gaussian, or every one, has the number in its first place."""
    raw = {name: lopsided(1).parameters_in_order()[name].detach().clone() for name in PARAMETERS}
    rows = slice(None) if all_rows else slice(0, 1)
    if parameter == "rotation" and math.isfinite(value) and value < 1e30:
        raw[parameter][rows] *= value
    else:
        raw[parameter].view(N, -1)[rows, 0] = value
    return GaussianModel.of_parameters(raw)


GROUP_STEPS = {"xyz": 0.51 / 1023, "scaling": 0.51 / 1023, "f_dc": 0.51 / 255}
"""compressed.ply: shares of the range of a group of 256."""


def read(path: Path, format: str) -> Splats:
    if format == "ply":
        raw = {name: value.detach().numpy() for name, value in GaussianModel.from_ply(path).parameters_in_order().items()}
        opacity = 1 / (1 + np.exp(-raw["opacity"][:, 0].astype(float)))
        return Splats(raw["xyz"], raw["scaling"], raw["rotation"], raw["f_dc"][:, 0], opacity, raw["f_rest"])
    return read_page(path) if format == "html" else READERS[format](path)


def assert_right(found: Splats, scene: GaussianModel, format: str) -> None:
    """Each number, clipped to what the format holds, within its steps."""
    raw = {name: value.detach().numpy().astype(float) for name, value in scene.parameters_in_order().items()}
    order = np.arange(N)
    if format == "sog":  # it sorts
        logs = [np.sign(xyz) * np.log1p(np.abs(xyz.astype(float))) for xyz in (raw["xyz"], found.xyz)]
        order = np.linalg.norm(logs[0][:, None] - logs[1][None], axis=2).argmin(axis=1)
        assert len(set(order)) == N
    if format == "compressed.ply":
        order = z_order(scene.get_xyz).argsort().numpy()
    for name, stored in {"xyz": found.xyz, "scaling": found.log_scale, "f_dc": found.dc, "f_rest": found.rest}.items():
        if format == "splat" and name == "f_rest":
            continue
        low, high = HELD[format].get(name, (-np.inf, np.inf))
        expected = np.clip(raw[name].reshape(N, -1), low, high)
        absolute, relative = STEPS[format][name]
        error = np.abs(stored[order].reshape(N, -1) - expected) - absolute - relative * np.abs(expected)
        if format == "compressed.ply" and name in GROUP_STEPS:
            ranges = [np.ptp(expected[order // 256 == group], axis=0) for group in range(2)]
            error -= GROUP_STEPS[name] * np.stack(ranges)[order // 256]
        if name == "scaling":  # a flat Gaussian may have any small thickness: as an error of length
            lengths = np.abs(np.exp(stored[order].reshape(N, -1)) - np.exp(expected)) - 1e-4
            error = np.minimum(error, lengths)
        assert error.max() <= 0, f"{name}: {error.max():g} beyond the step"
    assert np.abs(found.opacity[order] - scene.get_opacity.detach().numpy()[:, 0]).max() <= 1.01 / 255
    cosine = np.abs((found.wxyz[order] * scene.get_rotation.detach().numpy()).sum(axis=1)) / np.linalg.norm(found.wxyz[order], axis=1)
    assert np.degrees(2 * np.arccos(np.clip(cosine, 0, 1))).max() < 1.5


@pytest.mark.parametrize(
    ("parameter", "value", "all_rows"),
    [
        *((name, value, False) for name, values in EXTREME.items() for value in values),
        *((name, values[-1], True) for name, values in EXTREME.items()),
    ],
)
@pytest.mark.parametrize("format", POINTS)
def test_an_extreme_number_is_held_or_told(tmp_path, caplog, format, parameter, value, all_rows) -> None:
    scene, out = scene_with(parameter, value, all_rows), tmp_path / f"out{FILE_FORMATS[format].suffix}"
    low, high = HELD[format].get(parameter, (-np.inf, np.inf)) if parameter != "rotation" else (-np.inf, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            FORMATS[format].write(scene, out, Options(up="z"))
        except ValueError as problem:
            assert (parameter == "xyz" and not low < value < high) or (format == "html" and abs(value) > 10 and all_rows)
            assert "\n" not in str(problem) and "expected" in str(problem) and not out.exists()
            return
    assert_right(read(out, format), rotated(scene, Y_UP) if format == "gsglb" else scene, format)
    is_clipped = value > high or (value < low and parameter != "scaling")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) >= is_clipped
    if is_clipped:
        (line,) = (line for line in told if {"f_dc": "f_dc", "f_rest": "f_rest", "scaling": "log scale"}[parameter] in line)
        assert (line.startswith(f"{format} holds ") and f"{N if all_rows else 1} of {N} Gaussians" in line.replace("299 of", "300 of")) or parameter != "scaling"


@pytest.mark.parametrize(("parameter", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values])
@pytest.mark.parametrize("format", FORMATS)
def test_an_impossible_number_is_refused_with_its_place(tmp_path, format, parameter, value) -> None:
    out = tmp_path / f"out.{format}"
    with pytest.raises(ValueError, match=f"^{format} cannot hold the .* of Gaussian 0 .*; expected ") as caught:
        FORMATS[format].write(scene_with(parameter, value), out, Options())
    assert "\n" not in str(caught.value) and not out.exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_rotation_without_direction_and_a_scene_without_gaussians_are_refused(tmp_path, format) -> None:
    scene = lopsided()
    scene.parameters_in_order()["rotation"].data[4] = 0
    with pytest.raises(ValueError, match=f"{format} cannot hold the quaternion of Gaussian 4"):
        FORMATS[format].write(scene, tmp_path / f"out.{format}", Options())
    with pytest.raises(ValueError, match="holds no Gaussian"):
        FORMATS[format].write(GaussianModel(0), tmp_path / f"out.{format}", Options())


@pytest.mark.parametrize("format", POINTS)
def test_a_file_with_impossible_rows_is_exported_without_them(tmp_path, capsys, caplog, format) -> None:
    columns = rows(8, x=[0.0, 1e39, 1.0, np.nan, 0.5, 0.25, 0.75, 2.0], scale_1=[-3.0] * 4 + [300.0] + [-3.0] * 3)
    columns["opacity"][6] = np.inf
    for name in ("rot_0", "rot_1", "rot_2", "rot_3"):
        columns[name][7] = 0.0
    cloud = write(tmp_path / "c.ply", columns, types="double")
    assert main([str(cloud), "--format", format]) == 0
    assert len(read(tmp_path / "export" / f"c{FILE_FORMATS[format].suffix}", format).xyz) == 4
    assert "4 of 8 rows are left out: 1 with an all-zero quaternion (padding); 2 with NaN, infinity" in caplog.text


@pytest.mark.parametrize("field", GAUSSIAN)
def test_a_file_without_one_usable_row_is_refused(tmp_path, capsys, field) -> None:
    cloud = write(tmp_path / "c.ply", rows(2, **{field: math.nan}))
    assert main([str(cloud), "--format", "spz"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export: ") and f"no usable row among 2: 2 with NaN, infinity or more than 1e+18 in {field}" in line


@pytest.mark.parametrize("answer", [{"data": b""}, {}, {"error": "no\nway"}, RuntimeError("std::bad_alloc"), {"data": b"rubbish"}])
def test_a_failing_encoder_is_one_sentence(tmp_path, monkeypatch, answer) -> None:
    class Forge:
        def convert(self, content, source, target, **_):
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr("gaussforge.GaussForge", Forge)
    with pytest.raises(ValueError, match=r"^gaussforge (could not write|wrote 0 Gaussians)") as caught:
        export(saved(tmp_path, lopsided()), "spz", tmp_path / "out.spz")
    assert "\n" not in str(caught.value) and not (tmp_path / "out.spz").exists()


def test_an_encoder_that_loses_gaussians_is_found_out(tmp_path, monkeypatch) -> None:
    for format in ("splat", "spz", "sog"):
        FORMATS[format].write(lopsided(), tmp_path / f"out.{format}", Options())
        fewer = {"data": (tmp_path / f"out.{format}").read_bytes()}
        raw = {name: lopsided().parameters_in_order()[name].detach().repeat(2, *[1] * dims) for name, dims in zip(PARAMETERS, (1, 2, 2, 1, 1, 1))}
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"wrote 300 Gaussians into .*, and the scene has 600"):
            patch.setattr("gaussforge.GaussForge", lambda: type("Forge", (), {"convert": lambda *_, **__: fewer})())  # noqa: B023
            FORMATS[format].write(GaussianModel.of_parameters(raw), tmp_path / "more.splat", Options())


def saved(folder: Path, scene: GaussianModel) -> Path:
    scene.save_ply(folder / "scene.ply")
    return folder / "scene.ply"


@pytest.mark.parametrize("factor", [1e-4, 1e8, 1e15])
def test_a_scene_too_small_or_too_large_to_be_seen_is_told(tmp_path, capsys, factor) -> None:
    from tools.contact_sheet import main as contact_sheet
    from tools.turntable import main as turntable

    raw = {name: lopsided().parameters_in_order()[name].detach() for name in PARAMETERS}
    cloud = saved(tmp_path, GaussianModel.of_parameters({**raw, "xyz": raw["xyz"] * factor, "scaling": raw["scaling"] + min(math.log(factor), 30)}))
    for format in ("html", "glb"):
        assert main([str(cloud), "--format", format]) == 2
        assert "rescale or move it" in capsys.readouterr().err
    assert turntable([str(cloud), "--frames", "1", "--size_px", "16"]) == 2
    assert "rescale or move it" in capsys.readouterr().err
    assert contact_sheet([str(cloud), "--out", str(tmp_path / "s.png")]) == 2
    assert "rescale or move it" in capsys.readouterr().err
    assert main([str(cloud), "--format", "ply", "splat"]) == 0


@pytest.mark.parametrize(("parameter", "value"), [("xyz", 9e17), ("scaling", 42.0), ("f_dc", 1e17), ("f_rest", -1e17)])
def test_a_mesh_beside_an_extreme_gaussian_is_finite(tmp_path, monkeypatch, parameter, value) -> None:
    trimesh = pytest.importorskip("trimesh")
    monkeypatch.setattr(mesh, "OUTLINE_VIEWS", 1)
    monkeypatch.setattr(mesh, "BAKE_VIEWS", 2)
    FORMATS["glb"].write(scene_with(parameter, value), tmp_path / "out.glb", Options(grid=16, texture_px=64, faces=200))
    shape = trimesh.load(tmp_path / "out.glb", force="mesh")
    assert len(shape.faces) and np.isfinite(shape.vertices).all() and np.abs(shape.vertices).max() < 5


@pytest.mark.parametrize("degree", [0, 3])
def test_a_gltf_file_beyond_32_bits_is_refused(tmp_path, monkeypatch, degree) -> None:
    scene = lopsided(degree)
    size = sum(array.nbytes for array in gltf_splats.attributes(scene).values())
    assert limits.GLTF_BYTES == 2**32 - 2**16
    monkeypatch.setattr(limits, "GLTF_BYTES", size)
    FORMATS["gsglb"].write(scene, tmp_path / "a.glb", Options())
    assert (tmp_path / "a.glb").stat().st_size - size < 2**16
    monkeypatch.setattr(limits, "GLTF_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"gsglb cannot hold {N} Gaussians, {size:,} bytes; expected at most {size - 1:,}: take ply"):
        FORMATS["gsglb"].write(scene, tmp_path / "b.glb", Options())
    assert not (tmp_path / "b.glb").exists()


@pytest.mark.parametrize(
    "formats, scene, words, told",
    [
        (["ply", "html", "spz"], {"x": 3000.0}, [], "spz cannot hold the position 3000"),
        (["ply", "glb", "splat"], {}, [], "needs gaussforge"),
        (["ply", "gsglb", "glb"], {}, [], "needs xatlas"),
        (["gsglb", "ply"], {}, ["--pad_sh", "4"], "cannot be padded to 4"),
        (["ply", "html"], {"scale_0": -30.0, "scale_1": -30.0, "scale_2": -30.0, "x": [0.0] * 3}, [], "from 0.3 to 1e+06 units away"),
        (["ply", "glb"], {"x": [0.0, 1e7, -1e7]}, [], "from 0.3 to 1e+06 units away"),
    ],
)
def test_what_one_format_refuses_is_found_before_any_is_written(tmp_path, capsys, monkeypatch, formats, scene, words, told) -> None:
    cloud = write(tmp_path / "c.ply", rows(3, **scene))
    for needed in ("gaussforge", "xatlas"):
        if needed in told:
            monkeypatch.setitem(sys.modules, needed, None)
    assert main([str(cloud), "--format", *formats, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and not (tmp_path / "export").exists()


def test_a_notice_of_clipping_goes_to_the_log(caplog, tmp_path) -> None:
    with caplog.at_level(logging.WARNING):
        FORMATS["spz"].write(scene_with("f_dc", 5.0), tmp_path / "out.spz", Options(up="z"))
    (record,) = caplog.records
    assert record.getMessage() == "spz holds base colour (f_dc) from -3.3334 to 3.3334: 1 of 300 Gaussians, from -0.701127 to 5, are clipped to that"


@pytest.mark.parametrize(
    ("far", "factor", "moves"),
    [(None, 1.0, ()), (1500.0, 1.0, ("compressed.ply",)), (None, 1e-3, ("spz",)), (9e17, 1.0, ("compressed.ply", "sog"))],
    ids=["plain", "a floater", "tiny", "a floater beyond all"],
)
@pytest.mark.parametrize("format", [name for name in POINTS if name != "html"])
def test_positions_rounded_by_more_than_their_gaussians_size_are_reported(tmp_path, caplog, format, far, factor, moves) -> None:
    """As many as another reader finds; a floater coarsens the steps of others, and spz has one step for every scene."""
    raw = {name: lopsided().parameters_in_order()[name].detach().clone() for name in PARAMETERS}
    raw |= {"xyz": raw["xyz"] * factor, "scaling": raw["scaling"] + math.log(factor)}
    if far is not None:
        raw["xyz"][0, 0] = far
    scene, out = GaussianModel.of_parameters(raw), tmp_path / f"out{FILE_FORMATS[format].suffix}"
    try:
        FORMATS[format].write(scene, out, Options(up="z"))
    except ValueError as problem:
        assert format == "spz" and "cannot hold the position" in str(problem)
        return
    lines = [record.getMessage() for record in caplog.records if "rounded by more" in record.getMessage()]
    assert len(lines) == (format in moves)
    if format != "sog":  # it sorts, and by what it sorted cannot be seen where many are in one place
        order = z_order(scene.get_xyz).argsort().numpy() if format == "compressed.ply" else np.arange(N)
        expected = (rotated(scene, Y_UP) if format == "gsglb" else scene).get_xyz.detach().numpy()
        away = np.linalg.norm(read(out, format).xyz[order] - expected, axis=1)
        moved = int((away > scene.get_scaling.detach().numpy().max(axis=1)).sum())
        assert (moved > 0) == (format in moves)
        if moved:
            start = f"{format}: the positions of {moved} of 300 Gaussians are rounded by more than the Gaussian's own size"
            assert lines[0].startswith(start)
