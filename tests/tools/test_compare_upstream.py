# SPDX-License-Identifier: Apache-2.0
"""tools/compare_upstream.py: a folder as LucidDreamer leaves it (its own recorded cloud and cameras) against one of ours."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from arguments import GenerateCamParams
from evaluation.comparison.compare import common_cameras, statistics, views
from evaluation.comparison.folder import camera_from_JSON, read_cameras, read_side
from scene.dataset_readers import circle_cameras
from scene.gaussian_model import GaussianModel
from tests.red_ball import write_run
from tools import compare_upstream
from utils.camera_utils import camera_to_JSON
from utils.image_utils import write_png

UPSTREAM_YAML = """
port: 6000
save_video: True
ModelParams:
  workspace: cat
  sh_degree: 0
OptimizationParams:
  iterations: 1234
GenerateCamParams:
  image_w: 64
  image_h: 64
GuidanceParams:
  text: 'a cat'
  C_batch_size: 4
  accum: 1
"""
CFG_ARGS = "Namespace(sh_degree=2, _source_path='', _model_path='/somewhere/cat', workspace='cat', _white_background=False, opt_path='configs/cat.yaml')"


@pytest.fixture
def upstream(tmp_path, golden_dir):
    """Cloud and cameras were written by LucidDreamer; the rest is in its form."""
    folder = tmp_path / "cat@20240501"
    for iteration in (600, 1234):
        cloud = folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"
        cloud.parent.mkdir(parents=True)
        shutil.copy(golden_dir / "point_cloud_sh2" / "point_cloud.ply", cloud)
    cameras = json.loads((golden_dir / "cameras_circle8.json").read_text())
    for camera in cameras:  # a quarter of the size: the same views
        camera |= {"width": 64, "height": 64, "fx": camera["fx"] / 8, "fy": camera["fy"] / 8}
    (folder / "cameras.json").write_text(json.dumps(cameras))
    (folder / "config.yaml").write_text(UPSTREAM_YAML)
    (folder / "cfg_args").write_text(CFG_ARGS)
    with SummaryWriter(str(folder)) as board:
        for k, ms in enumerate([100.0, 300.0]):
            board.add_scalar("iter_time", ms, k)
    return folder


@pytest.fixture
def ours(tmp_path):
    folder = write_run(tmp_path / "ours", (1234,))
    (folder / "run.json").write_text("{}")
    (folder / "log.jsonl").write_text('{"phase_ms": {"render": 20.0, "guidance": 30.0}}\n' * 4)
    return folder


def test_cameras_json_gives_back_the_camera() -> None:
    made = circle_cameras(GenerateCamParams(image_w=48, image_h=32, render_45=True), 5, "cpu", render_45=True)
    for camera in made:
        read = camera_from_JSON(json.loads(json.dumps(camera_to_JSON(camera.uid, camera))))
        assert (read.image_width, read.image_height, read.uid) == (48, 32, camera.uid)
        for name in ("world_view_transform", "projection_matrix", "full_proj_transform", "camera_center"):
            torch.testing.assert_close(getattr(read, name), getattr(camera, name), rtol=0, atol=2e-6)
        np.testing.assert_allclose([read.FoVx, read.FoVy], [camera.FoVx, camera.FoVy], rtol=1e-7)


def test_upstreams_folder_is_read(upstream) -> None:
    side = read_side(upstream)
    assert (side.kind, side.iteration, len(side.cameras), side.notes) == ("LucidDreamer", 1234, 8, [])
    assert side.config.optimization.iterations == 1234 and side.config.guidance.text == "a cat"
    assert side.settings["GuidanceParams.C_batch_size"] == 4 and "ModelParams.workspace" not in side.settings
    assert side.config.model.sh_degree == 2 and not side.config.model.white_background  # cfg_args, both spellings
    assert side.timing["ms a step"] == 200.0
    assert side.gaussians.max_sh_degree == 2 and len(side.gaussians.get_xyz) > 100


def test_a_cloud_of_any_degree_is_read(golden_dir) -> None:
    degrees = [
        GaussianModel.from_ply(golden_dir / f"point_cloud_sh{degree}" / "point_cloud.ply").max_sh_degree for degree in (0, 2)
    ]
    assert degrees == [0, 2]


def test_two_runs_are_compared(upstream, ours, tmp_path, capsys) -> None:
    page = tmp_path / "page.html"
    assert compare_upstream.main([str(upstream), str(ours), "--views", "3", "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"made by +LucidDreamer +this program", told)
    assert re.search(r"OptimizationParams\.iterations +1234 +5000", told)
    assert re.search(r"GuidanceParams\.text +a cat +a red sphere", told)
    assert re.search(r"SH degree +2 +0", told) and re.search(r"ms a step +200 +50", told)
    assert "cameras.json of A" in told and re.search(r"\nmean +\d+\.\d\d +0\.\d{4} +- +-", told)
    text = page.read_text()
    assert text.count("<img") == 3 and "http" not in text and "<h2>Gaussians</h2>" in text


def test_a_run_against_itself_differs_in_nothing(upstream, capsys) -> None:
    assert compare_upstream.main([str(upstream), str(upstream), "--views", "2"]) == 0
    told = capsys.readouterr().out
    assert "(none)" in told and re.search(r"\nmean +100\.00 +1\.0000", told)


def test_a_runs_own_pictures_are_compared_with_ours(upstream) -> None:
    side = read_side(upstream)
    numbers, cameras, _ = common_cameras(side, side, 3)
    drawn = [view.images[0] for view in views(side, side, numbers, cameras)]
    folder = upstream / "test_six_views" / "1234_iteration"
    for number, image in zip(numbers, drawn):
        write_png(folder / f"render_view_{number}.png", image)
    write_png(folder / f"render_view_{numbers[-1]}.png", 255 - drawn[-1])
    own = [view.own[0] for view in views(side, side, numbers, cameras)]
    assert own[:2] == [100.0, 100.0] and own[2] < 20


def test_without_cameras_json_a_circle_is_used(upstream, ours) -> None:
    (upstream / "cameras.json").unlink()
    numbers, cameras, source = common_cameras(read_side(upstream), read_side(ours), 4)
    assert numbers == [0, 1, 2, 3] and len(cameras) == 4 and source == "a circle by the settings of A"


def test_statistics_of_a_known_cloud(ours) -> None:
    found = statistics(read_side(ours).gaussians)
    assert found["Gaussians"] == 3000 and found["opacity, mean"] == pytest.approx(1 / (1 + np.exp(-3)))
    assert found["size, median"] == pytest.approx(np.exp(-4.0)) and found[
        "longest / shortest axis, median"
    ] == pytest.approx(1)
    assert found["distance from the origin, 99 %"] == pytest.approx(0.46, abs=1e-6)
    assert [found[f"{name}, by opacity"] for name in ("red", "green", "blue")] == pytest.approx(
        [0.63, 0.112, 0.112], abs=1e-6
    )


def test_settings_that_are_not_understood_are_noted(upstream, capsys) -> None:
    (upstream / "config.yaml").write_text("OptimizationParams:\n  iteratoins: 5\n")
    assert compare_upstream.main([str(upstream), str(upstream), "--views", "1"]) == 0
    assert "not understood, the default is shown" in capsys.readouterr().out
    (upstream / "config.yaml").unlink()
    assert any("config.yaml is missing; defaults are shown" in note for note in read_side(upstream).notes)


def test_what_cannot_be_compared_is_told(upstream, tmp_path, capsys) -> None:
    assert compare_upstream.main([str(tmp_path), str(upstream)]) == 2
    assert "holds no point_cloud/iteration_K/point_cloud.ply" in capsys.readouterr().err
    (upstream / "cfg_args").write_text("Namespace(a=__import__('os').getcwd())")
    assert compare_upstream.main([str(upstream), str(upstream)]) == 2
    assert "not of the form Namespace(key=value, ...)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "junk",
        "[{}]",
        '[{"id": 0, "width": 1e9, "height": 5, "fx": 1, "fy": 1, "position": [0, 0, 0], "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}]',
    ],
)
def test_a_damaged_cameras_json_is_told(tmp_path, text) -> None:
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(ValueError, match=r"cameras\.json is no list of cameras .*delete it to use a circle"):
        read_cameras(tmp_path / "cameras.json")
