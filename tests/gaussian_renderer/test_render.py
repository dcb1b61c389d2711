# SPDX-License-Identifier: Apache-2.0
"""render() against upstream's recorded numbers, with a rasterizer that returns what was recorded; and its laws."""

import types

import numpy as np
import pytest
import torch
from torch import nn

import gaussian_renderer
from arguments import GenerateCamParams, PipelineParams
from gaussian_renderer import draw_augmentation, normalised_disparity, render
from scene.dataset_readers import camera_at, circle_cameras
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws
from utils.random_streams import RandomStreams

PARAMETERS = {
    "xyz": "_xyz",
    "f_dc": "_features_dc",
    "opacity": "_opacity",
    "scaling": "_scaling",
    "rotation": "_rotation",
}
WHITE = torch.ones(3)


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "render_wrapper.npz")


@pytest.fixture
def model(golden) -> GaussianModel:
    model = GaussianModel(0)
    values = {name: torch.from_numpy(golden[f"model/{recorded}"]) for name, recorded in PARAMETERS.items()}
    model._set_parameters(
        {"xyz": values.pop("xyz"), "f_dc": values.pop("f_dc"), "f_rest": torch.zeros(50, 0, 3), **values}
    )
    return model


@pytest.fixture
def camera(upstream_fov):
    return circle_cameras(GenerateCamParams(image_w=40, image_h=24), 3, "cpu")[1]


@pytest.fixture
def calls(golden, monkeypatch) -> list[dict]:
    """What the rasterizer was given, one entry a call; it returns the recorded image, radii and maps."""
    seen: list[dict] = []

    class Recorder(nn.Module):
        def __init__(self, raster_settings) -> None:
            super().__init__()
            self.settings = raster_settings

        def forward(self, **inputs):
            seen.append({**inputs, "settings": self.settings})
            maps = [torch.from_numpy(golden[f"fake/{name}"]) for name in ("depth", "transmittance")]
            return torch.from_numpy(golden["fake/color"]), torch.from_numpy(golden["fake/radii"]), torch.stack(maps)

    monkeypatch.setattr(gaussian_renderer, "GaussianRasterizer", Recorder)
    return seen


@pytest.mark.parametrize("case", range(8))
def test_rasterizer_inputs_and_outputs_are_upstreams(golden, model, camera, calls, case) -> None:
    """torch's normal numbers differ between vector widths by up to 2.4e-6 (measured over 2 million draws); the noise on
    SH coefficients is 0.45 of them times the coefficient, here up to 3.2: 3.4e-6. Scales get a quarter of that.
    """
    shs_ratio = 0.5 if case % 2 == 0 else 0.0
    ratios = (0.0, 0.0, 0.0, 0.0) if case == 7 else (0.1, 0.66, shs_ratio, 1.0)  # the last is a test view
    augmentation = draw_augmentation(RandomStreams(100 + case), model, WHITE, *ratios)
    out = render(camera, model, PipelineParams(), WHITE, augmentation=augmentation)
    given = calls[0]
    assert given["settings"].sh_degree == golden[f"case{case}/sh_degree"]
    tangents = [given["settings"].tanfovx, given["settings"].tanfovy]
    ours = {
        "bg": given["settings"].bg,
        "shs": given["shs"],
        "scales": given["scales"],
        "tanfov": torch.tensor(tangents),
    }
    ours |= {"depth": out["depth"], "alpha": out["alpha"], "scales_out": out["scales"]}
    for name, value in ours.items():
        recorded = golden[f"case{case}/{name}"]
        assert tuple(value.shape) == recorded.shape, name
        np.testing.assert_allclose(value.detach().numpy(), recorded, rtol=1e-6, atol=4e-6 if name.startswith("s") else 1e-7, err_msg=name)


def test_what_the_rasterizer_is_told_of_the_camera(golden, model, camera, calls) -> None:
    out = render(camera, model, PipelineParams(debug=True), WHITE, scaling_modifier=0.5)
    settings, given = calls[0]["settings"], calls[0]
    assert (settings.image_height, settings.image_width) == (24, 40)
    assert settings.viewmatrix is camera.world_view_transform and settings.projmatrix is camera.full_proj_transform
    assert settings.campos is camera.camera_center
    assert (settings.scale_modifier, settings.debug, settings.prefiltered) == (0.5, True, False)
    assert torch.equal(given["opacities"], model.get_opacity) and torch.equal(given["rotations"], model.get_rotation)
    assert out["viewspace_points"] is given["means2D"] and given["means2D"].requires_grad
    assert torch.equal(out["visibility_filter"], torch.from_numpy(golden["fake/radii"] > 0))
    assert torch.equal(out["render"], torch.from_numpy(golden["fake/color"]))


@pytest.mark.parametrize("antialiased", [True, False])
def test_the_rasterizer_filters_what_was_trained_so(model, camera, calls, antialiased) -> None:
    model.antialiased = antialiased
    render(camera, model, PipelineParams(), WHITE)
    assert calls[0]["settings"].antialiasing is antialiased


def test_python_colours_and_covariances(model, camera, calls) -> None:
    render(
        camera, model, PipelineParams(convert_SHs_python=True, compute_cov3D_python=True), WHITE, scaling_modifier=2.0
    )
    given = calls[0]
    assert "shs" not in given and "scales" not in given and "rotations" not in given
    colours = (model.get_features[:, 0] * 0.28209479177387814 + 0.5).clamp(min=0)
    np.testing.assert_allclose(given["colors_precomp"].detach(), colours.detach(), atol=1e-6)
    np.testing.assert_allclose(given["cov3D_precomp"].detach(), model.get_covariance(2.0).detach(), rtol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_colours_computed_here_are_the_rasterizers(degree) -> None:
    """Seen from one side and from the other: view dependence has a direction."""
    draws = Draws(degree)
    model = GaussianModel.of_parameters(
        {
            "xyz": draws.normal(40, 3) * 0.4, "f_dc": draws.normal(40, 1, 3), "rotation": draws.normal(40, 4),
            "f_rest": draws.normal(40, (degree + 1) ** 2 - 1, 3) * 0.4, "scaling": draws.normal(40, 3) * 0.3 - 2.5,
            "opacity": draws.normal(40, 1),
        }
    )  # fmt: skip
    for phi_deg in (20.0, 200.0):
        view = camera_at(3.0, 70.0, phi_deg, 0.6, 32, 24)
        images = [render(view, model, PipelineParams(convert_SHs_python=here), WHITE)["render"] for here in (True, False)]
        torch.testing.assert_close(*images, rtol=0, atol=2e-5)


def test_a_lens_wider_than_a_right_angle_sees_near_as_near() -> None:
    """The stretch to [0, 1] cancels the focal length, whose sign must be right for any field of view."""
    near_and_far = torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.0, -0.3]])
    values = {"xyz": near_and_far, "f_dc": torch.zeros(2, 1, 3), "f_rest": torch.zeros(2, 0, 3), "rotation": torch.ones(2, 4)}
    values |= {"opacity": torch.full((2, 1), 9.0), "scaling": torch.full((2, 3), -1.5)}
    shown = render(camera_at(1.2, 1.0, 0.0, 2.0, 33, 33), GaussianModel.of_parameters(values), PipelineParams(), WHITE)
    disparity = shown["depth"][0].detach()
    assert float(disparity[16, 16]) > 0.9 and float(disparity[0, 0]) == 0.0


def test_ratios_of_0_draw_four_decisions_and_change_nothing(model) -> None:
    streams = RandomStreams(0)
    augmentation = draw_augmentation(streams, model, WHITE, 0.0, 0.0, 0.0, 0.0)
    assert augmentation.background is WHITE and augmentation.sh_degree == model.active_sh_degree
    assert augmentation.shs_noise is None and augmentation.scale_noise is None
    expected = RandomStreams(0)
    for _ in range(4):
        expected.python.random()
    assert streams.python.random() == expected.python.random()
    assert torch.equal(streams.rand(3), expected.rand(3))


def test_augmentation_lowers_the_sh_degree_and_never_a_scale_below_zero(camera, calls, model) -> None:
    model.active_sh_degree = 2
    streams = RandomStreams(1)
    augmentation = draw_augmentation(streams, model, WHITE, 1.0, 0.0, 0.0, 1.0)
    assert augmentation.sh_degree == 0 and augmentation.background is WHITE
    object.__setattr__(augmentation, "scale_noise", torch.full((50, 3), -100.0))
    assert not render(camera, model, PipelineParams(), WHITE, augmentation=augmentation)["scales"].any()


def test_disparity_is_normalised_between_covered_pixels() -> None:
    depth, transmittance = torch.tensor([2.0, 4.0, 1.0, 0.0]), torch.tensor([0.0, 0.05, 0.5, 1.0])
    disparity = 1 / (depth + 10 * transmittance + 1e-5)
    out = normalised_disparity(depth, transmittance, 1.0)
    assert out[0] == 1 and out[1] == 0  # nearest, and farthest of the covered ones
    assert out[2:].tolist() == [0, 0]  # farther than those: clamped
    nothing_covered = normalised_disparity(depth, transmittance.clamp(min=0.2), 1.0)
    assert nothing_covered.min() == 0 and nothing_covered.max() == 1
    assert disparity.argmax() == 0


def test_a_constant_map_gives_zero_and_a_finite_gradient() -> None:
    depth = torch.zeros(1, 4, 4, requires_grad=True)
    transmittance = torch.ones(1, 4, 4, requires_grad=True)
    out = normalised_disparity(depth, transmittance, 1.0)
    out.sum().backward()
    assert not out.any()
    assert depth.grad.isfinite().all() and transmittance.grad.isfinite().all()


def test_the_real_rasterizer_draws_a_ball_in_the_middle() -> None:
    """The installed rasterizer behind render(): a red ball on white, and a gradient to every parameter that shows."""
    model = GaussianModel(0)
    values = {"xyz": torch.zeros(1, 3), "f_dc": torch.tensor([[[1.7, -1.7, -1.7]]]), "f_rest": torch.zeros(1, 0, 3)}
    values |= {"opacity": torch.full((1, 1), 4.0), "scaling": torch.full((1, 3), -1.5), "rotation": torch.eye(4)[:1]}
    model._set_parameters(values)
    out = render(camera_at(4.0, 80.0, 30.0, 0.6, 33, 33), model, PipelineParams(), WHITE)
    image, transmittance = out["render"].detach(), out["alpha"].detach()
    assert image[0, 16, 16] > 0.9 and image[1, 16, 16] < 0.1
    assert image[:, 0, 0].tolist() == [1, 1, 1] and transmittance[0, 0, 0] == 1 and transmittance[0, 16, 16] < 0.1
    out["render"][1].sum().backward()
    assert out["visibility_filter"].tolist() == [True] and out["viewspace_points"].grad.shape == (1, 3)
    assert model.parameters_in_order()["opacity"].grad.abs().sum() > 0


def test_no_gaussians_at_all_show_the_background() -> None:
    out = render(camera_at(4.0, 80.0, 30.0, 0.6, 17, 9), GaussianModel(1), PipelineParams(), WHITE)
    assert (out["render"] == 1).all() and (out["alpha"] == 1).all() and not out["depth"].any()
    assert out["radii"].shape == (0,)


def test_another_fork_of_the_rasterizer_is_told():
    fork = types.SimpleNamespace(__name__="diff_gaussian_rasterization", __file__="/somewhere/else.py")
    with pytest.raises(ImportError, match=r"else\.py is another fork .* pip install --force-reinstall"):
        gaussian_renderer.check_rasterizer(fork)


def test_an_older_version_of_the_rasterizer_is_reported():
    """As after an update of the sources alone: before a run begins, not when its first step is rendered."""
    old = types.SimpleNamespace(
        __name__="diff_gaussian_rasterization",
        __file__="/site/old.py",
        backend=lambda: {"outputs": 3},
        GaussianRasterizationSettings=types.SimpleNamespace(_fields=("image_height", "depth_z_gradient", "backend")),
    )
    with pytest.raises(ImportError, match=r"old\.py is an older version .* pip install --force-reinstall"):
        gaussian_renderer.check_rasterizer(old)
