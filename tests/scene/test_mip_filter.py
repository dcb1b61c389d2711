# SPDX-License-Identifier: Apache-2.0
"""Mip-Splatting's 3D filter against NumPy, and that training, rendering and saved files agree about both filters."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from arguments import Config
from arguments.load import load_config
from gaussian_renderer import render
from scene import Scene
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from scene.mip_filter import Sampling, smoothed
from tests.drawn import Draws
from utils.general_utils import build_covariance
from utils.random_streams import RandomStreams

TEXT = ["--text", "a red mug", "--device", "cpu"]


def _config(folder: Path, *words: str) -> Config:
    small = ["--init_num_pts", "50", "--image_w", "16", "--image_h", "16", "--model_path", str(folder)]
    return load_config([*TEXT, *small, *words])


def _scene(folder: Path, *words: str) -> tuple[Config, GaussianModel, Scene]:
    config = _config(folder, *words)
    gaussians = GaussianModel(0)
    return config, gaussians, Scene(config, gaussians, RandomStreams(0), "cpu")


def test_the_covariance_gets_the_variance_and_opacity_times_volume_stays() -> None:
    draws = Draws(2)
    opacity, scaling = draws.uniform(20, 1), torch.exp(draws.normal(20, 3) - 4)
    deviation, turn = 0.03 * draws.uniform(20, 1), draws.directions(20, 4)
    new_opacity, wider = smoothed(opacity, scaling, deviation)

    def matrix(scales: torch.Tensor) -> np.ndarray:
        xx, xy, xz, yy, yz, zz = build_covariance(scales, turn).double().numpy().T
        return np.moveaxis(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]), -1, 0)

    before = matrix(scaling)
    after = before + (deviation.double().numpy() ** 2)[:, :, None] * np.eye(3)
    np.testing.assert_allclose(matrix(wider), after, rtol=1e-4, atol=1e-6 * np.abs(after).max())
    ratio = (scaling.double() ** 2).prod(dim=1).sqrt().numpy() / np.sqrt(np.linalg.det(after))
    np.testing.assert_allclose(new_opacity[:, 0].numpy(), opacity[:, 0].numpy() * ratio, rtol=1e-4)


def test_the_filter_follows_the_nearest_camera_and_the_longest_lens() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [0, 0.5, 0], [0, 0, 9.0]], requires_grad=True)
    got = Sampling(focal_px=100.0, radius=2.0).deviation(xyz)
    assert not got.requires_grad  # positions are not moved for a wider filter
    assert got[:, 0].tolist() == pytest.approx([math.sqrt(0.2) * d / 100 for d in (2.0, 1.5, 0.2)])


@pytest.mark.parametrize(
    ("words", "radius", "fov_rad", "height_px"),
    [
        (["--use_progressive", "true", "--max_fovy_range", "0.1", "0.6"], 5.2, 0.32, 16),
        (["--use_progressive", "false"], 5.2 * 0.95**4, 0.16, 16),  # widened four times, the lens to its limit
        (["--CoGradParams.enabled", "true", "--use_progressive", "true", "--SSAA", "2"], 1.5, 0.32, 32),
    ],
)
def test_sampling_is_that_of_all_the_runs_cameras(tmp_path, words, radius, fov_rad, height_px) -> None:
    sampling = Sampling.of_run(_config(tmp_path, "--iterations", "2000", *words))
    assert sampling.focal_px == pytest.approx(height_px / (2 * math.tan(fov_rad / 2)), rel=1e-6)
    assert sampling.radius == pytest.approx(radius, rel=1e-6)


def test_off_is_what_it_was(tmp_path) -> None:
    _, gaussians, _ = _scene(tmp_path)
    opacity, scaling = gaussians.rendered_shape()
    assert torch.equal(opacity, gaussians.get_opacity) and torch.equal(scaling, gaussians.get_scaling)


def test_a_saved_file_shows_what_training_shows(tmp_path) -> None:
    """The filter in space is in its opacities and scales, that on the screen in a comment."""
    config, gaussians, scene = _scene(tmp_path, "--PipelineParams.mip_filter", "true")
    with torch.no_grad():
        gaussians.parameters_in_order()["scaling"].sub_(1.0)  # finer than the filter
        gaussians.parameters_in_order()["opacity"].fill_(5.0)
    camera, white = scene.getTestCameras()[0], torch.ones(3)
    shown = render(camera, gaussians, config.pipeline, white)["render"].detach()
    saved = GaussianModel.from_ply(scene.save(1))
    torch.testing.assert_close(render(camera, saved, config.pipeline, white)["render"].detach(), shown, rtol=0, atol=1e-4)
    for changes in ({"sampling": None}, {"antialiased": False}):
        for name, value in changes.items():
            setattr(gaussians, name, value)
        plain = render(camera, gaussians, config.pipeline, white)["render"].detach()
        assert float((plain - shown).abs().max()) > 0.01, changes


def test_a_smaller_image_is_the_larger_one_averaged(tmp_path) -> None:
    """At a half and a quarter of a size, of Gaussians of about a pixel. Mean errors: 0.002 and 0.007; without the filters,
    by which what is thin gets thick, 0.008 and 0.032."""
    errors = {}
    for on in ("true", "false"):
        config, gaussians, _ = _scene(tmp_path / on, "--PipelineParams.mip_filter", on, "--init_num_pts", "400")
        with torch.no_grad():
            gaussians.parameters_in_order()["scaling"].sub_(1.0)
            gaussians.parameters_in_order()["opacity"].fill_(5.0)
            cameras = [camera_at(5.0, 75.0, 30.0, 0.5, px, px) for px in (64, 32, 16)]
            large, *small = (render(c, gaussians, config.pipeline, torch.ones(3))["render"] for c in cameras)
            for image in small:
                px = image.shape[1]
                errors[on, px] = float((image - avg_pool2d(large, 64 // px)).abs().mean())
    assert errors["true", 32] < 0.004 and errors["true", 16] < 0.012
    assert all(errors["false", px] > 3 * errors["true", px] for px in (32, 16))


def test_a_gaussian_that_vanishes_is_saved_with_finite_numbers(tmp_path) -> None:
    _, gaussians, _ = _scene(tmp_path, "--PipelineParams.mip_filter", "true")
    with torch.no_grad():
        gaussians.parameters_in_order()["scaling"].fill_(-60.0)
    vertices = gaussians.as_vertices()
    assert all(np.isfinite(vertices[name]).all() for name in vertices.dtype.names)


def test_gradients_reach_scales_and_opacities_through_it(tmp_path) -> None:
    config, gaussians, scene = _scene(tmp_path, "--PipelineParams.mip_filter", "true")
    render(scene.getTestCameras()[0], gaussians, config.pipeline, torch.ones(3))["render"].square().sum().backward()
    for name in ("scaling", "opacity", "xyz"):
        grad = gaussians.parameters_in_order()[name].grad
        assert bool(grad.isfinite().all()) and bool(grad.any()), name
