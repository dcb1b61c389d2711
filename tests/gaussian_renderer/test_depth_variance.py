# SPDX-License-Identifier: Apache-2.0
"""HiFA's z-variance against the blending weights written out, its gradient, and its place in a training step."""

import json

import pytest
import torch

import train
from arguments import PipelineParams
from diff_gaussian_rasterization import GaussianRasterizer
from gaussian_renderer import Augmentation, activate, raster_settings, render
from gaussian_renderer.depth_variance import depth_variance, moment_inputs, moment_settings
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws

BLACK, PIPE = torch.zeros(3), PipelineParams()


def model_of(xyz, opacity=0.6, scale=0.3):
    """Round Gaussians at xyz [N, 3]."""
    model, n = GaussianModel(0), len(xyz)
    rotation = torch.zeros(n, 4)
    rotation[:, 0] = 1
    model._set_parameters(
        {
            "xyz": torch.as_tensor(xyz, dtype=torch.float32),
            "f_dc": torch.zeros(n, 1, 3),
            "f_rest": torch.zeros(n, 0, 3),
            "opacity": torch.full((n, 1), opacity).logit(),
            "scaling": torch.full((n, 3), scale).log(),
            "rotation": rotation,
        }
    )
    return model


def variance_of(model, camera, pipe=PIPE):
    settings = moment_settings(raster_settings(camera, pipe, Augmentation(0, torch.ones(3))))
    inputs = moment_inputs(camera, activate(model), pipe, model.get_scaling)
    return depth_variance(GaussianRasterizer(settings)(means2D=torch.zeros(len(model.get_xyz), 3), **inputs)[0])


def one_pixel_weights(model, camera):
    """Weights [N, H, W] of each Gaussian: its own channel of a render in which it alone is white."""
    weights = []
    for k in range(len(model.get_xyz)):
        alone = model_of(model.get_xyz.detach())
        colours = alone.parameters_in_order()["f_dc"].detach()
        colours.fill_(-1.7725)  # SH constant of black
        colours[k] = 1.7725  # of white
        weights.append(render(camera, alone, PipelineParams(), BLACK)["render"][0].detach())
    return torch.stack(weights)


@pytest.mark.parametrize("pipe", [PipelineParams(), PipelineParams(compute_cov3D_python=True)])
def test_it_is_the_weighted_variance_of_depth(pipe):
    """By the weights written out in float64; bound from float32 sums of three terms."""
    camera = camera_at(3.0, 70.0, 30.0, 0.6, 24, 24)
    model = model_of(Draws(0).uniform(5, 3) - 0.5)
    weights = one_pixel_weights(model, camera).double()
    z = (model.get_xyz @ camera.world_view_transform[:3, 2] + camera.world_view_transform[3, 2]).double()
    z = z.detach()[:, None, None]
    total = weights.sum(0)
    mean = (weights * z).sum(0) / total
    variance = (weights * (z - mean) ** 2).sum(0) / total
    expected = variance[total > 0.5].mean()
    assert 0 < (total > 0.5).sum() < total.numel()
    assert variance_of(model, camera, pipe).item() == pytest.approx(float(expected), rel=1e-3)


def test_a_layer_that_faces_the_camera_has_none_and_two_layers_the_square_of_half_their_distance():
    camera = camera_at(3.0, 90.0, 0.0, 0.3, 16, 16)
    into = torch.nn.functional.normalize(camera.camera_center, dim=0)
    across = torch.linalg.cross(into, torch.tensor([0.0, 0.0, 1.0]))
    layer = torch.stack([step * across for step in torch.linspace(-0.2, 0.2, 5)])
    assert variance_of(model_of(layer), camera).item() < 1e-6
    two = torch.stack([0.1 * into, -0.1 * into])
    half = model_of(two, opacity=0.5, scale=5.0)  # weights near .5 and .25 everywhere
    assert variance_of(half, camera).item() == pytest.approx(0.04 * (2 / 3) * (1 / 3), rel=0.02)


def test_its_gradient_draws_the_layers_together():
    camera = camera_at(3.0, 90.0, 0.0, 0.3, 16, 16)
    into = torch.nn.functional.normalize(camera.camera_center, dim=0)
    model = model_of(torch.stack([0.1 * into, -0.1 * into]), scale=1.0)
    variance_of(model, camera).backward()
    along = model.get_xyz.grad @ into
    assert along[0] > 0 > along[1]  # descent moves the near one away from the camera, the far one towards it


def test_without_an_opaque_pixel_it_is_zero_and_its_gradient_finite():
    camera = camera_at(3.0, 90.0, 0.0, 0.3, 16, 16)
    model = model_of(torch.zeros(2, 3), opacity=0.1, scale=0.05)
    value = variance_of(model, camera)
    value.backward()
    assert value.item() == 0 and torch.isfinite(model.get_xyz.grad).all()


def test_a_run_with_it_logs_the_term_and_ends_with_less_of_it(tmp_path):
    spread = {}
    for weight in ("10000", "1e-9"):
        folder = tmp_path / weight
        flags = f"--device cpu --image_w 32 --image_h 32 --init_num_pts 300 --iterations 30 --lambda_z_variance {weight}"
        words = [*flags.split(), *["--save_video", "false", "--lambda_tv", "0", "--lambda_scale", "0", "--quiet", "true"]]
        assert train.main(["--opt", "quickstart", "--model_path", str(folder), *words]) == 0
        last = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][-1]["losses"]
        spread[weight] = last["z_variance"]
        parts = last["guidance"]
        assert last["total"] == pytest.approx(parts + float(weight) * last["z_variance"], rel=1e-5)
    assert spread["10000"] < 0.8 * spread["1e-9"], spread
