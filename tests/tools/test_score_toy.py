# SPDX-License-Identifier: Apache-2.0
"""tools/score_toy.py on a run folder that is fitted to nothing: reading, rendering, table, JSON, messages."""

import json

import pytest
import torch

from arguments import GenerateCamParams
from guidance.toy.captions import Spec
from scene.gaussian_model import GaussianModel
from tools import score_toy

CONFIG = """
ModelParams: {sh_degree: 0}
GenerateCamParams: {default_fovy: 0.36}
GuidanceParams: {guidance: ideal, text: a red sphere with red stripe}
"""


def red_ball() -> GaussianModel:
    """One opaque, almost sharp-edged red blob of radius 0.5: many concentric Gaussians on a sphere's surface."""
    points = (
        torch.nn.functional.normalize(torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 0.46
    )
    gaussians = GaussianModel(0, "cpu")
    red = (torch.tensor([0.9, 0.16, 0.16]) * 0.7 - 0.5) / 0.28209479
    gaussians._set_parameters(
        {
            "xyz": points,
            "f_dc": red.expand(3000, 1, 3).clone(),
            "f_rest": torch.zeros(3000, 0, 3),
            "opacity": torch.full((3000, 1), 3.0),
            "scaling": torch.full((3000, 3), -4.0),
            "rotation": torch.tensor([1.0, 0, 0, 0]).repeat(3000, 1),
        }
    )
    return gaussians


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    for iteration in (5, 10):
        red_ball().save_ply(tmp_path / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply")
    return tmp_path


def test_a_red_ball_is_nearly_the_true_red_sphere():
    """No shading and a soft edge: 20.5 dB and IoU 0.945 were measured; against a blue cube 8.6 dB and 0.80."""
    spec = Spec("sphere", "red", "red")
    scores = score_toy.score_gaussians(red_ball(), spec, GenerateCamParams(default_fovy=0.36), size_px=48)
    assert scores["psnr"] > 19 and scores["iou"] > 0.93
    other = score_toy.score_gaussians(
        red_ball(), Spec("cube", "blue", "blue"), GenerateCamParams(default_fovy=0.36), 48
    )
    assert other["psnr"] < scores["psnr"] - 5 and other["iou"] < scores["iou"]


def test_a_run_folder_is_scored_and_written(run_folder, capsys):
    out = run_folder / "scores.json"
    assert score_toy.main([str(run_folder), "--size", "48", "--json", str(out)]) == 0
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert scores["iteration"] == 10 and scores["prompt"] == "a red sphere with red stripe" and scores["psnr"] > 19
    assert scores["face"] is None
    assert "alike from front and back" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert score_toy.main([str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    assert score_toy.main([str(tmp_path)]) == 2
    assert "point_cloud/iteration_K" in capsys.readouterr().err
