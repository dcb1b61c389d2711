# SPDX-License-Identifier: Apache-2.0
"""Tools that render take `--device`: on the simulated GPU with --device cuda and auto, nowhere near it with --device cpu."""

import pytest

from export import mesh
from export.options import Options
from tests.export.test_mesh import coloured_ball
from tests.simulated_cuda.conftest import run
from tools import export, score_toy, side_by_side, turntable

FRAMES = ["--size_px", "16", "--frames", "2"]
WORDS = {
    "turntable": lambda scene, out: [str(scene), *FRAMES, "--out", str(out / "a.mp4")],
    "side_by_side": lambda scene, out: [str(scene), str(scene), *FRAMES, "--out", str(out / "b.mp4")],
    "score_toy": lambda scene, out: [str(scene), "--size", "16"],
    "export": lambda scene, out: [str(scene), "--format", "ply", "--out", str(out / "c.ply")],
}
MAINS = {"turntable": turntable, "side_by_side": side_by_side, "score_toy": score_toy, "export": export}


@pytest.mark.parametrize(
    "tool", ["turntable", *(pytest.param(name, marks=pytest.mark.device) for name in ("side_by_side", "score_toy"))]
)
def test_images_are_rendered_where_they_are_asked_for(gpu, tmp_path, tool):
    assert run("ideal", tmp_path / "run", iterations=1) == 0
    for device, is_used in (("cuda", True), ("auto", True), ("cpu", False)):
        before = gpu.allocations
        assert MAINS[tool].main([*WORDS[tool](tmp_path / "run", tmp_path), "--device", device]) == 0
        assert (gpu.allocations > before) == is_used, device
    assert gpu.host_indices == {}


@pytest.mark.parametrize("tool", MAINS)
def test_a_device_that_is_not_there_is_refused(tmp_path, capsys, tool):
    (tmp_path / "run").mkdir()
    words = WORDS[tool](tmp_path / "run", tmp_path)
    assert MAINS[tool].main([*words, "--device", "cuda:7"]) == 2
    assert "device 'cuda:7' given" in capsys.readouterr().err and not list(tmp_path.glob("*.*"))


@pytest.mark.device
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_mesh_is_painted_from_images_of_the_device(gpu, tmp_path, monkeypatch, device):
    for name in ("skimage.measure", "fast_simplification", "xatlas", "trimesh"):
        pytest.importorskip(name)
    for name, value in {"BAKE_VIEWS": 3, "BAKE_PX": 32, "OUTLINE_PX": 32}.items():
        monkeypatch.setattr(mesh, name, value)
    mesh.write_glb(coloured_ball(), tmp_path / "ball.glb", Options(faces=200, texture_px=64, grid=24, device=device))
    assert (gpu.allocations > 0) == (device == "cuda") and gpu.host_indices == {}
