# SPDX-License-Identifier: Apache-2.0
"""Terms of the loss that make a surface: normals of a known depth, flat Gaussians on a plane, and a training step."""

import json
import math

import pytest
import torch

import train
from arguments import PipelineParams
from diff_gaussian_rasterization import GaussianRasterizer
from gaussian_renderer import Augmentation, activate, raster_settings
from gaussian_renderer.surface_terms import (
    depth_normal_error,
    normal_inputs,
    normal_settings,
    normals_of_depth,
    translucency,
)
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws

PIPE = PipelineParams()
SIZE_PX = 32


def front_camera():
    """3 units in front of the origin, which it looks at."""
    return camera_at(3.0, 90.0, 0.0, 0.3, SIZE_PX, SIZE_PX)


def layer(tilt_rad: float = 0.0, count: int = 400, opacity: float = 0.9) -> GaussianModel:
    """Discs on the plane through the origin that faces the camera, each turned by `tilt_rad` about the vertical axis."""
    across, up = (0.8 * (Draws(seed).uniform(count) - 0.5) for seed in (1, 2))
    into = torch.nn.functional.normalize(front_camera().camera_center, dim=0)
    sideways = torch.linalg.cross(into, torch.tensor([0.0, 0.0, 1.0]))
    yaw = math.atan2(float(into[1]), float(into[0])) + tilt_rad  # the discs' axis is x before it is turned
    model = GaussianModel(0)
    model._set_parameters(
        {
            "xyz": across[:, None] * sideways + up[:, None] * torch.tensor([0.0, 0.0, 1.0]),
            "f_dc": torch.zeros(count, 1, 3),
            "f_rest": torch.zeros(count, 0, 3),
            "opacity": torch.full((count, 1), opacity).logit(),
            "scaling": torch.tensor([0.001, 0.08, 0.08]).log().repeat(count, 1),
            "rotation": torch.tensor([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]).repeat(count, 1),
        }
    )
    return model


def rendered(model: GaussianModel, pipe: PipelineParams = PIPE):
    """Image of normals, depth and transmittance."""
    camera = front_camera()
    settings = normal_settings(raster_settings(camera, pipe, Augmentation(0, torch.ones(3))))
    inputs = normal_inputs(camera, activate(model), pipe, model.get_scaling)
    image, _, depth_transmittance = GaussianRasterizer(settings)(means2D=torch.zeros(len(model.get_xyz), 3), **inputs)
    return image, depth_transmittance


def error_of(model: GaussianModel, pipe: PipelineParams = PIPE) -> torch.Tensor:
    return depth_normal_error(front_camera(), *rendered(model, pipe))


@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.3, -0.2, -0.9), (-0.5, 0.4, -0.7)])
def test_the_depths_of_a_plane_have_its_normal(normal):
    """z of each pixel's ray on the plane n . p = n . (0, 0, 3)."""
    camera = front_camera()
    n = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    ndc = (torch.arange(SIZE_PX) + 0.5) / SIZE_PX * 2 - 1
    x, y = ndc * math.tan(camera.FoVx / 2), ndc[:, None] * math.tan(camera.FoVy / 2)
    depth = 3 * n[2] / (n[0] * x + n[1] * y + n[2])
    expected = n[:, None, None].expand(3, SIZE_PX - 2, SIZE_PX - 2)
    torch.testing.assert_close(normals_of_depth(camera, depth), expected, rtol=0, atol=1e-3)


def test_normals_are_the_shortest_axes_turned_to_the_camera():
    """In the camera's axes: right, down, forward."""
    for tilt_rad in (0.0, 0.5, math.pi, math.pi + 0.5):
        normals, (_, transmittance) = rendered(layer(tilt_rad))
        right, down, forward = (normals / (1 - transmittance))[:, SIZE_PX // 2, SIZE_PX // 2].tolist()
        assert forward == pytest.approx(-math.cos(tilt_rad % math.pi), abs=1e-3) and abs(down) < 1e-3
        assert abs(right) == pytest.approx(math.sin(tilt_rad % math.pi), abs=1e-3)


@pytest.mark.parametrize("pipe", [PIPE, PipelineParams(compute_cov3D_python=True)])
def test_discs_along_the_surface_have_no_error_and_tilted_ones_one_minus_the_cosine(pipe):
    assert error_of(layer(), pipe).item() < 1e-3
    assert error_of(layer(0.6), pipe).item() == pytest.approx(1 - math.cos(0.6), rel=0.05)


def test_its_gradient_turns_tilted_discs_and_moves_their_centres():
    """Along the gradient the error falls as fast as the gradient says: rotations alone, then positions alone."""
    for name in ("rotation", "xyz"):
        model = layer(0.4)
        model.parameters_in_order()["xyz"].data[:, :2] += 0.01 * Draws(5).normal(400, 2)
        error = error_of(model)
        error.backward()
        before = error.item()
        parameter = model.parameters_in_order()[name]
        with torch.no_grad():
            parameter -= 1e-3 * before / parameter.grad.norm() ** 2 * parameter.grad
        assert error_of(model).item() == pytest.approx(before * (1 - 1e-3), rel=2e-4), name


def test_without_an_opaque_pixel_it_is_zero_and_its_gradient_finite():
    model = layer(0.3, count=2, opacity=0.1)
    error = error_of(model)
    error.backward()
    assert error.item() == 0 and all(torch.isfinite(p.grad).all() for p in (model.get_xyz, model.get_raw_rotation))


def test_translucency_counts_pixels_that_are_neither_opaque_nor_empty():
    transmittance = torch.tensor([[[0.0, 1.0, 0.5, 0.8]]])
    assert translucency(transmittance).item() == pytest.approx((0.25 + 0.16) / 4)


def test_a_run_logs_the_terms_and_ends_with_less_of_them(tmp_path):
    weights = {"flatness": 1000.0, "normals": 100.0, "translucency": 1000.0}
    ends = {}
    for factor in (1.0, 1e-9):
        folder = tmp_path / str(factor)
        flags = "--device cpu --image_w 32 --image_h 32 --init_num_pts 300 --iterations 30 --save_video false --quiet true"
        words = [word for name, weight in weights.items() for word in (f"--lambda_{name}", str(factor * weight))]
        assert train.main(["--opt", "quickstart", "--model_path", str(folder), *flags.split(), *words]) == 0
        last = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][-1]["losses"]
        total = last["guidance"] + sum(factor * weight * last[name] for name, weight in weights.items())
        assert last["total"] == pytest.approx(total, rel=1e-5)
        ends[factor] = last
    for name in weights:
        assert ends[1.0][name] < 0.9 * ends[1e-9][name], name
