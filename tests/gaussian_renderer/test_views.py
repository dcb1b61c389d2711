# SPDX-License-Identifier: Apache-2.0
"""The views of a step rendered together: the bits and gradients of one view after the other, and no more memory."""

from collections.abc import Iterator

import pytest
import torch

from arguments import GenerateCamParams, PipelineParams
from diff_gaussian_rasterization import GaussianRasterizer
from gaussian_renderer import Augmentation, activate, draw_augmentation, raster_settings, render
from gaussian_renderer.depth_variance import depth_variance, moment_inputs, moment_settings
from gaussian_renderer.views import backward_to_inputs, backward_to_parameters, render_views
from scene.cameras import RCamera
from scene.dataset_readers import circle_cameras
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws
from tests.live_bytes import LiveBytes
from utils.random_streams import RandomStreams

B, N, HEIGHT, WIDTH, COEFFICIENTS = 4, 3000, 40, 56, 4
FLOAT_BYTES = 4
PIPES = {
    "kernels": PipelineParams(),
    "python": PipelineParams(convert_SHs_python=True, compute_cov3D_python=True),
    "covariances": PipelineParams(compute_cov3D_python=True),
}
Views = list[tuple[RCamera, Augmentation]]


@pytest.fixture
def model() -> GaussianModel:
    draws, model = Draws(4), GaussianModel(1)
    model.active_sh_degree = 1
    model._set_parameters(
        {
            "xyz": 0.4 * draws.normal(N, 3),
            "f_dc": draws.normal(N, 1, 3),
            "f_rest": 0.1 * draws.normal(N, COEFFICIENTS - 1, 3),
            "opacity": draws.normal(N, 1),
            "scaling": 0.3 * draws.normal(N, 3) - 3.5,
            "rotation": draws.normal(N, 4),
        }
    )
    return model


def views_of(model: GaussianModel, noise: float) -> Views:
    """Four cameras; backgrounds vary, one view has the degree 0, and `noise` of the colours and scales have noise."""
    streams, white = RandomStreams(6), torch.ones(3)
    cameras = circle_cameras(GenerateCamParams(image_w=WIDTH, image_h=HEIGHT), B, "cpu")
    return [(camera, draw_augmentation(streams, model, white, 0.3, 0.6, noise, noise)) for camera in cameras]


def incoming() -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    """Gradients of images, disparities and transmittances, of a z-variance, of the mean scale and mean smallest scale."""
    draws = Draws(5)
    channels = {"image": 3, "disparity": 1, "transmittance": 1}
    maps = {name: draws.normal(B, count, HEIGHT, WIDTH) for name, count in channels.items()}
    return maps, torch.tensor(0.3), {"scale": torch.tensor(0.7), "flatness": torch.tensor(0.4)}


def taken(model: GaussianModel) -> dict[str, torch.Tensor]:
    """The parameters' gradients, taken away from them."""
    gradient = {}
    for name, parameter in model.parameters_in_order().items():
        if parameter.grad is not None:
            gradient[name], parameter.grad = parameter.grad, None
    return gradient


def one_by_one(model: GaussianModel, views: Views, pipe: PipelineParams, further: bool) -> Iterator[tuple[dict, dict]]:
    """What a view's render() gives, and its gradients by one backward pass, view after view."""
    g_maps, g_z, g_scales = incoming()
    rendered = [render(camera, model, pipe, a.background, augmentation=a) for camera, a in views]
    for v, (out, (camera, augmentation)) in enumerate(zip(rendered, views, strict=True)):
        roots = [out["render"], out["depth"], out["scales"].mean()]
        gradients = [g_maps["image"][v], g_maps["disparity"][v], g_scales["scale"]]
        if further:
            settings = moment_settings(raster_settings(camera, pipe, augmentation))
            inputs = moment_inputs(camera, activate(model), pipe, out["scales"])
            rasterizer = GaussianRasterizer(settings)
            out["z_variance"] = depth_variance(rasterizer(means2D=torch.zeros(N, 3), **inputs)[0])
            roots += [out["z_variance"], out["alpha"], out["scales"].min(dim=1).values.mean()]
            gradients += [g_z, g_maps["transmittance"][v], g_scales["flatness"]]
        torch.autograd.backward(roots, gradients)
        yield out, taken(model) | {"screen": out["viewspace_points"].grad}


def together(model: GaussianModel, views: Views, pipe: PipelineParams, further: bool) -> Iterator[tuple[dict, dict]]:
    """The same by render_views, as a training step calls it."""
    g_maps, g_z, g_scales = incoming()
    if not further:
        del g_maps["transmittance"], g_scales["flatness"]
    rendered = render_views(views, model, pipe, further)
    outputs = [
        {"render": x.image.detach(), "depth": x.disparity.detach(), "alpha": x.transmittance.detach(), "radii": x.radii_px,
         "scales": x.scales.detach(), **({} if x.z_variance is None else {"z_variance": x.z_variance.detach()})}
        for x in rendered
    ]  # fmt: skip
    to_inputs = backward_to_inputs(rendered, g_maps, g_z if further else None)
    behind = [(view.edges, view.scales) for view in rendered]
    rendered.clear()
    while behind:
        (edges, scales), (g_screen, *g_inputs) = behind.pop(0), to_inputs.pop(0)
        backward_to_parameters(edges, g_inputs, scales, g_scales, last=not behind)
        yield outputs.pop(0), taken(model) | {"screen": g_screen}


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pipe", PIPES)
def test_each_view_is_what_render_makes_of_it_to_the_bit(model, pipe, noise):
    views = views_of(model, noise)
    expected = list(one_by_one(model, views, PIPES[pipe], further=False))
    given = list(together(model, views, PIPES[pipe], further=False))
    assert len(given) == B
    for (out, gradient), (want, want_gradient) in zip(given, expected, strict=True):
        assert all(torch.equal(x, want[name]) for name, x in out.items())
        assert gradient.keys() == want_gradient.keys() and len(gradient) == 7
        for name, x in gradient.items():
            assert torch.equal(x, want_gradient[name]) and (x.any() or name == "f_rest"), name
    assert any(gradient["f_rest"].any() for _, gradient in given)


def test_no_gradient_of_disparities_and_mean_scales_is_one_of_zeros_to_the_bit(model):
    g_maps, *_ = incoming()
    nothing = {"disparity": torch.zeros_like(g_maps["disparity"])}, {"scale": torch.tensor(0.0)}
    views, made = views_of(model, 0.0), []
    for further_maps, of_scales in (({}, {}), nothing):
        rendered = render_views(views, model, PipelineParams())
        to_inputs = backward_to_inputs(rendered, {"image": g_maps["image"], **further_maps}, None)
        gradients = []
        for k, (view, (g_screen, *g_inputs)) in enumerate(zip(rendered, to_inputs, strict=True)):
            backward_to_parameters(view.edges, g_inputs, view.scales, of_scales, last=k == B - 1)
            gradients += [g_screen, *taken(model).values()]
        made.append(gradients)
    assert len(made[0]) == 7 * B and all(torch.equal(x, y) for x, y in zip(*made, strict=True))


@pytest.mark.parametrize("pipe", PIPES)
def test_the_further_terms_of_the_views_are_kept_apart(model, pipe):
    """Equal up to the order in which a scale's or a position's three or four gradients are added up."""
    views = views_of(model, 1.0)
    expected = list(one_by_one(model, views, PIPES[pipe], further=True))
    for (out, gradient), (want, want_gradient) in zip(together(model, views, PIPES[pipe], further=True), expected, strict=True):
        assert torch.equal(out["z_variance"], want["z_variance"]) and out["z_variance"] > 0
        for name, x in gradient.items():
            tolerance = 1e-6 * float(want_gradient[name].abs().max())
            torch.testing.assert_close(x, want_gradient[name], rtol=0, atol=tolerance, msg=name)


def peak_of(model: GaussianModel, how, views: Views, pipe: PipelineParams) -> int:
    """Most bytes alive while the views are rendered and their gradients are collected."""
    noises = [x for _, a in views for x in (a.shs_noise, a.scale_noise) if x is not None]
    with LiveBytes([*model.parameters_in_order().values(), *noises]) as live:
        kept = [gradient for _, gradient in how(model, views, pipe, False)]
    assert len(kept) == B
    return live.peak


@pytest.mark.parametrize("pipe", PIPES)
def test_without_noise_rendering_together_takes_no_more_memory(model, pipe):
    """At most the images of the views more; the activations are there once and not once a view."""
    images = B * 5 * HEIGHT * WIDTH * FLOAT_BYTES
    views = views_of(model, 0.0)
    assert peak_of(model, together, views, PIPES[pipe]) <= peak_of(model, one_by_one, views, PIPES[pipe]) + images


def test_while_the_prior_runs_less_is_held_than_one_by_one(model):
    """Between rendering and the backward pass, which is where a step's memory peaks with a diffusion model beside it."""
    views = views_of(model, 1.0)
    with LiveBytes() as live:
        rendered = render_views(views, model, PIPES["kernels"])
        held_together = live.now
    del rendered
    with LiveBytes() as live:
        rendered = [render(camera, model, PIPES["kernels"], a.background, augmentation=a) for camera, a in views]
        held_one_by_one = live.now
    assert len(rendered) == B and held_together < held_one_by_one


def test_the_filter_on_the_screen_is_that_of_render(model):
    """In the images, and in the moments of z."""
    model.antialiased = True
    views = views_of(model, 0.0)
    for view, (camera, augmentation) in zip(render_views(views, model, PipelineParams(), True), views, strict=True):
        alone = render(camera, model, PipelineParams(), augmentation.background, augmentation=augmentation)
        assert torch.equal(view.image, alone["render"])
        settings = moment_settings(raster_settings(camera, PipelineParams(), augmentation, antialiased=True))
        inputs = moment_inputs(camera, activate(model), PipelineParams(), alone["scales"])
        moments = GaussianRasterizer(settings)(means2D=torch.zeros(N, 3), **inputs)[0]
        assert torch.equal(view.z_variance, depth_variance(moments))
    model.antialiased = False
    assert not torch.equal(render(camera, model, PipelineParams(), augmentation.background)["render"], alone["render"])
