# SPDX-License-Identifier: Apache-2.0
"""What viewers and metrics show of Gaussians on the simulated GPU: nothing indexes from the host, and images arrive there."""

import json
from types import SimpleNamespace

import pytest
import torch

from arguments import PipelineParams
from evaluation import load_metric
from gaussian_renderer import network_gui
from scene.gaussian_model import GaussianModel
from tests.evaluation import tiny_models as tiny
from tests.red_ball import red_ball
from viewer.web_viewer import WebViewer

EYE = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 3, 1]
REQUEST = {
    "resolution_x": 16, "resolution_y": 16, "train": 1, "fov_y": 0.5, "fov_x": 0.5, "z_near": 0.01, "z_far": 100.0,
    "shs_python": False, "rot_scale_python": False, "keep_alive": True, "scaling_modifier": 1.0,
    "view_matrix": EYE, "view_projection_matrix": EYE,
}  # fmt: skip


@pytest.fixture
def ball(gpu) -> GaussianModel:
    """A few of the red ball's Gaussians, on the GPU."""
    raw = red_ball().parameters_in_order()
    return GaussianModel.of_parameters({name: raw[name].detach()[:200] for name in raw if name != "background"}, "cuda")


@pytest.mark.parametrize("in_python", [False, True])
def test_the_remote_viewers_image(gpu, ball, in_python):
    fields = {**REQUEST, "shs_python": in_python, "rot_scale_python": in_python}
    request = network_gui.parse_request(json.dumps(fields).encode(), "cuda")
    image = network_gui._image(request, ball, PipelineParams(), torch.zeros(3, device="cuda"))
    assert image.device.type == "cuda" and len(network_gui.rgb_bytes(image)) == 16 * 16 * 3
    assert gpu.host_indices == {}


def test_the_web_viewers_gaussians(gpu, ball):
    shown = []
    viewer = SimpleNamespace(_splats=SimpleNamespace(set_gaussians=lambda *arrays: shown.extend(arrays)))
    WebViewer._show_gaussians(viewer, ball)
    assert [x.shape for x in shown] == [(200, 3), (200, 3, 3), (200, 3), (200, 1)]
    assert (shown[1] == shown[1].transpose(0, 2, 1)).all() and shown[1][0].any() and gpu.host_indices == {}


@pytest.mark.device
def test_a_metric_on_the_gpu_scores_as_on_the_cpu(gpu, tmp_path):
    tiny.write_clip(tmp_path, "clip-vit-base-patch32")
    images = tiny.images(2, 40, 40)
    scores = [load_metric("clip_b32", device, tmp_path)(images, tiny.PROMPT) for device in ("cpu", "cuda")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5) and gpu.host_indices == {}
