# SPDX-License-Identifier: Apache-2.0
"""Exports in other people's viewers and converters: upright, facing the camera, and with our renderer's colours."""

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import PipelineParams
from evaluation.orbits import Orbit, camera_on_orbit
from export import FORMATS, mesh
from export.cloud import UP, Y_UP, rotated
from export.options import Options
from gaussian_renderer import render
from scene.gaussian_model import GaussianModel
from tests.export.npm_packages import VIEWERS, package, shown, splat_transform
from tests.export.readers import read_gltf_splats
from tests.export.scenes import lopsided
from utils.file_formats import FILE_FORMATS
from utils.image_utils import to_uint8

SIZE_PX, FOV_DEG, RADIUS, ELEVATION_DEG, AZIMUTH_DEG = 160, 40.0, 2.6, 20.0, 25.0
OPENED = [
    ("spark", "ply"), ("spark", "compressed.ply"), ("spark", "splat"), ("spark", "spz"), ("spark", "sog"),
    ("mkkellogg", "ply"), ("mkkellogg", "splat"), ("mkkellogg", "spz"),
    ("playcanvas", "ply"), ("playcanvas", "compressed.ply"), ("playcanvas", "sog"), ("playcanvas", "gsglb"),
    ("three", "ply"), ("three", "splat"), ("three", "spz"), ("three", "gsglb"),
]  # fmt: skip
"""Viewer and format. mkkellogg's reads version 2 of spz only."""


def scene() -> GaussianModel:
    """Nearly opaque, so that its outline and what is in front are plain."""
    cloud = lopsided(1)
    cloud.parameters_in_order()["opacity"].data += 2
    return cloud


def camera():
    orbit = Orbit(SIZE_PX, SIZE_PX, math.radians(FOV_DEG), ELEVATION_DEG, RADIUS)
    return camera_on_orbit(torch.zeros(3), orbit, AZIMUTH_DEG)


def objections(path: Path) -> set[str]:
    """Codes of all that the Khronos validator says of a GLB file."""
    program = (
        f"require({json.dumps(str(package('gltf-validator')))}).validateBytes(new Uint8Array("
        f"require('fs').readFileSync({json.dumps(str(path))}))).then(report => console.log(JSON.stringify(report)))"
    )
    report = json.loads(subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True).stdout)
    return {message["code"] for message in report["issues"]["messages"]}


def by_our_renderer(cloud: GaussianModel) -> np.ndarray:
    with torch.no_grad():
        return to_uint8(render(camera(), cloud, PipelineParams(), torch.zeros(3))["render"])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(((a.astype(float) - b.astype(float)) ** 2).mean(), 1e-9))


def in_viewer(viewer: str, format: str, folder, **options) -> np.ndarray:
    path = folder / f"scene{FILE_FORMATS[format].suffix}"
    FORMATS[format].write(scene(), path, Options(**options))
    eye = (Y_UP @ camera().camera_center).tolist()
    return shown(viewer, path, eye, FOV_DEG, SIZE_PX)


@pytest.mark.slow
@pytest.mark.parametrize(("viewer", "format"), OPENED)
def test_a_y_up_viewer_shows_what_our_renderer_shows(tmp_path, viewer, format) -> None:
    """Without an option of the export. dB; measured: 36 (Spark), 34 (PlayCanvas), 27 (mkkellogg; three.js, which cuts
    Gaussians off at two deviations), for splat 31 and 26 (three.js)."""
    image = in_viewer(viewer, format, tmp_path, spz_version=2 if viewer == "mkkellogg" else 3)
    truth = by_our_renderer(scene())
    assert psnr(image, truth) > 25
    flipped = by_our_renderer(rotated(scene(), torch.diag(torch.tensor([-1.0, 1, -1]))))
    assert psnr(truth, flipped) < 18  # the bound above tells them apart


@pytest.mark.slow
@pytest.mark.parametrize("viewer", ["spark", "mkkellogg", "playcanvas"])
def test_viewers_have_a_switch_for_the_mip_filter(tmp_path, viewer) -> None:
    """Of Gaussians of half a pixel it shows what our renderer shows with the filter; Spark needs none. dB; measured with the
    filter: 49 (Spark), 37 (PlayCanvas), 35 (mkkellogg), without: 29, 29, 27."""
    cloud = scene()
    cloud.parameters_in_order()["scaling"].data -= 2
    FORMATS["ply"].write(cloud, tmp_path / "scene.ply", Options())
    eye = (Y_UP @ camera().camera_center).tolist()
    image = shown(viewer, tmp_path / "scene.ply", eye, FOV_DEG, SIZE_PX, antialiased=True)
    without = by_our_renderer(cloud)
    cloud.antialiased = True
    assert psnr(image, by_our_renderer(cloud)) > max(33, psnr(image, without) + 5)


@pytest.mark.slow
def test_y_down_is_upside_down_in_a_y_up_viewer(tmp_path) -> None:
    """The turn about x that viewers of y-down files make shows it upright: rows and columns of the image stay."""
    image = in_viewer("spark", "ply", tmp_path, up="-y")
    turn = UP["y"].T @ torch.diag(torch.tensor([1.0, -1, -1])) @ UP["y"]  # about x, in training's axes
    assert psnr(image, by_our_renderer(rotated(scene(), turn))) > 26


@pytest.mark.parametrize("format", ["ply", "compressed.ply", "splat", "spz", "sog"])
def test_splat_transform_reads_one_and_the_same_scene(tmp_path, format) -> None:
    """It turns no format's axes (version 2 turned spz's)."""
    for given in (format, "ply"):
        FORMATS[given].write(scene(), tmp_path / f"{given}{FILE_FORMATS[given].suffix}", Options())
    back = tmp_path / "back.ply"
    splat_transform(tmp_path / f"{format}{FILE_FORMATS[format].suffix}", back)
    found, truth = GaussianModel.from_ply(back), GaussianModel.from_ply(tmp_path / "ply.ply")
    image = by_our_renderer(rotated(truth, Y_UP.T))
    assert psnr(by_our_renderer(rotated(found, Y_UP.T)), image) > 30  # measured: 31.7 (splat, without view dependence)


def test_gaussians_in_gltf_are_those_that_splat_transform_writes(tmp_path) -> None:
    """It turns a y-down PLY by half a turn about z, to y up."""
    turn = torch.diag(torch.tensor([-1.0, -1, 1]))
    FORMATS["ply"].write(rotated(scene(), Y_UP.T @ turn @ Y_UP), tmp_path / "scene.ply", Options(up="y"))
    splat_transform(tmp_path / "scene.ply", tmp_path / "theirs.glb")
    FORMATS["gsglb"].write(scene(), tmp_path / "ours.glb", Options())
    theirs, ours = read_gltf_splats(tmp_path / "theirs.glb"), read_gltf_splats(tmp_path / "ours.glb")
    for name in ("xyz", "log_scale", "dc", "opacity", "rest"):
        assert np.abs(getattr(theirs, name) - getattr(ours, name)).max() < 2e-5, name
    assert np.abs(np.abs((theirs.wxyz * ours.wxyz).sum(axis=1)) - 1).max() < 1e-5


def test_the_khronos_validator_has_no_objection_to_gaussians_in_gltf(tmp_path) -> None:
    """It does not know the extension yet, and says so; all else it checks."""
    FORMATS["gsglb"].write(scene(), tmp_path / "scene.glb", Options())
    assert objections(tmp_path / "scene.glb") <= {"UNSUPPORTED_EXTENSION", "MESH_PRIMITIVE_INVALID_ATTRIBUTE"}


def test_the_khronos_validator_has_no_objection_to_the_mesh(tmp_path, monkeypatch) -> None:
    package("gltf-validator")
    monkeypatch.setattr(mesh, "BAKE_VIEWS", 4)
    monkeypatch.setattr(mesh, "BAKE_PX", 64)
    FORMATS["glb"].write(scene(), tmp_path / "mesh.glb", Options(faces=300, texture_px=64, grid=24))
    assert objections(tmp_path / "mesh.glb") == set()


def test_every_viewer_is_pinned_and_has_a_page() -> None:
    """So that `npm install --prefix tests/export/viewers` brings all that these tests need."""
    from tests.export.npm_packages import ENTRIES, HERE

    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert {name for names in VIEWERS.values() for name in names} == set(ENTRIES) <= set(pinned)
    assert all((HERE / f"{viewer}.js").is_file() for viewer in VIEWERS)
