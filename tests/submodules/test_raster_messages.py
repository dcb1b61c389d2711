# SPDX-License-Identifier: Apache-2.0
"""Bad input at the rasterizer's door: every message names the tensor, what was given and what is expected."""

import pytest
import torch
from raster_scenes import random_scene, settings_of

from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer, _cuda, rasterize_views

pytestmark = pytest.mark.usefixtures("each_backend")


def render(changes=None, drop=(), **settings):
    """Renders a small scene with some inputs or settings replaced."""
    scene = random_scene(1, n=10, height=8, width=9, sh_degree=1)
    inputs = {**scene.inputs, "means2D": torch.zeros(10, 3), **(changes or {})}
    inputs = {k: v for k, v in inputs.items() if k not in drop}
    return GaussianRasterizer(settings_of(scene.view)._replace(**settings))(**inputs)


@pytest.mark.parametrize("name", ["means3D", "means2D", "opacities", "shs", "scales", "rotations"])
def test_wrong_dtype_is_named(name):
    good = {**random_scene(1, n=10, sh_degree=1).inputs, "means2D": torch.zeros(10, 3)}
    with pytest.raises(ValueError, match=rf"{name} has dtype torch.float64, expected torch.float32: call {name}.float\(\)"):
        render({name: good[name].double()})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("means3D", (10, 2), r"means3D has shape \(10, 2\), expected \(N, 3\)"),
        ("means2D", (9, 3), r"means2D has shape \(9, 3\), expected \(10, 3\)"),
        ("opacities", (10, 2), r"opacities has shape \(10, 2\), expected \(10, 1\) or \(10,\)"),
        ("shs", (10, 12), r"shs has shape \(10, 12\), expected \(10, M, 3\)"),
        ("scales", (10, 1), r"scales has shape \(10, 1\), expected \(10, 3\)"),
        ("rotations", (10, 3), r"rotations has shape \(10, 3\), expected \(10, 4\)"),
    ],
)
def test_wrong_shape_is_named(name, shape, message):
    with pytest.raises(ValueError, match=message):
        render({name: torch.zeros(shape)})


def test_wrong_shape_of_precomputed_inputs():
    with pytest.raises(ValueError, match=r"colors_precomp has shape \(10, 4\), expected \(10, 3\)"):
        render({"colors_precomp": torch.zeros(10, 4)}, drop=("shs",))
    with pytest.raises(ValueError, match=r"cov3D_precomp has shape \(10, 9\), expected \(10, 6\)"):
        render({"cov3D_precomp": torch.zeros(10, 9)}, drop=("scales", "rotations"))


@pytest.mark.parametrize("name", ["opacities", "scales"])
def test_mixed_devices_are_named(name):
    with pytest.raises(ValueError, match=rf"{name} is on meta, means3D is on cpu: move it with"):
        render({name: torch.zeros(10, 1 if name == "opacities" else 3, device="meta")})


def test_a_device_without_backend_is_named():
    with pytest.raises(ValueError, match=r"means3D is on meta; expected a tensor on the CPU or on a CUDA device"):
        render({"means3D": torch.zeros(10, 3, device="meta")})


def test_not_a_tensor():
    with pytest.raises(ValueError, match=r"scales is a list, expected a torch.Tensor"):
        render({"scales": [1.0, 2.0]})


@pytest.mark.parametrize("name", ["means3D", "means2D", "opacities"])
def test_what_every_call_needs_is_not_none(name):
    """The library reads these arrays, and writes their gradients, without asking whether they are there."""
    message = rf"{name} is a NoneType, expected a torch.Tensor"
    with pytest.raises(ValueError, match=message):
        render({name: None})
    scene = random_scene(1, n=10, height=8, width=9, sh_degree=1)
    views = [{**scene.inputs, "means2D": torch.zeros(10, 3)}] * 2
    with pytest.raises(ValueError, match=message):
        rasterize_views([settings_of(scene.view)] * 2, [views[0], views[1] | {name: None}])


def test_settings_tensors_are_checked_too():
    with pytest.raises(ValueError, match=r"bg has shape \(4,\), expected \(3,\)"):
        render(bg=torch.zeros(4))
    with pytest.raises(ValueError, match=r"viewmatrix has shape \(3, 4\), expected \(4, 4\)"):
        render(viewmatrix=torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"campos has dtype torch.float64"):
        render(campos=torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_height": 0}, "image_height is 0, expected an int from 1 to 65536"),
        ({"image_width": 9.0}, "image_width is 9.0, expected an int"),
        ({"tanfovx": 0.0}, r"tanfovx is 0.0, expected a positive number: tan\(fov/2\)"),
        ({"tanfovy": float("nan")}, "tanfovy is nan, expected a positive number"),
        ({"scale_modifier": float("inf")}, "scale_modifier is inf, expected a finite number"),
        ({"sh_degree": 4}, "sh_degree is 4, expected an int from 0 to 3"),
        ({"sh_degree": 2}, "shs has 4 coefficients per Gaussian, sh_degree 2 needs 9"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        render(**settings)


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({}, ("shs",), "neither of shs and colors_precomp given"),
        ({"colors_precomp": torch.zeros(10, 3)}, (), "both of shs and colors_precomp given"),
        ({}, ("scales", "rotations"), r"neither of \(scales, rotations\) and cov3D_precomp given"),
        ({"cov3D_precomp": torch.zeros(10, 6)}, (), r"both of \(scales, rotations\) and cov3D_precomp given"),
        ({}, ("rotations",), "scales given without rotations"),
    ],
)
def test_colour_and_shape_are_given_exactly_once(changes, drop, message):
    with pytest.raises(ValueError, match=message):
        render(changes, drop)


def test_non_contiguous_tensors_are_taken_as_they_are_meant():
    """Upstream's own matrices are transposed views, so these are copied, not refused."""
    scene = random_scene(2, n=10, height=8, width=9, sh_degree=1)
    settings = settings_of(scene.view)
    expected = GaussianRasterizer(settings)(means2D=torch.zeros(10, 3), **scene.inputs)

    def strided(x):
        return x.movedim(0, -1).contiguous().movedim(-1, 0) if x.ndim > 1 else x.repeat_interleave(2)[::2]

    inputs = {k: strided(v).requires_grad_() for k, v in scene.inputs.items()}
    assert not inputs["means3D"].is_contiguous() and not inputs["shs"].is_contiguous()
    settings = settings._replace(viewmatrix=strided(settings.viewmatrix), projmatrix=strided(settings.projmatrix))
    given = GaussianRasterizer(settings)(means2D=torch.zeros(10, 3), **inputs)
    for a, b in zip(given, expected):
        assert torch.equal(a, b)
    given[0].sum().backward()
    assert all(v.grad.shape == v.shape for v in inputs.values())


def test_positional_settings_of_upstream_are_enough():
    """LucidDreamer passes twelve fields; the thirteenth has a default."""
    view = random_scene(1).view
    settings = GaussianRasterizationSettings(
        8, 9, 0.3, 0.3, torch.zeros(3), 1.0, view.viewmatrix, view.projmatrix, 0, view.campos, False, False
    )
    assert settings.depth_z_gradient is False


def test_mark_visible_checks_its_input():
    with pytest.raises(ValueError, match=r"positions has shape \(5,\), expected \(N, 3\)"):
        GaussianRasterizer(settings_of(random_scene(1).view)).markVisible(torch.zeros(5))


def test_the_backend_that_is_asked_for_renders_or_is_refused(request):
    """`each_backend` lets the kernels render CPU tensors, or leaves them to the CPU."""
    cpu = render(backend="cpu")
    assert all(torch.equal(a, b) for a, b in zip(render(backend="cpu"), cpu))
    if request.node.callspec.params["each_backend"] == "cpu":
        with pytest.raises(ValueError, match="backend is 'cuda', but the CUDA kernels cannot render: the tensors are on cpu"):
            render(backend="cuda")
    else:
        assert all(torch.equal(a, b) for a, b in zip(render(backend="cuda"), render()))
    with pytest.raises(ValueError, match="backend is 'gpu', expected one of auto, cuda, cpu"):
        render(backend="gpu")


def test_cpu_keeps_the_kernels_unused(cuda_kernels, monkeypatch):
    monkeypatch.setattr(_cuda.Rasterize, "apply", None)
    assert len(render(backend="cpu")) == 3
    with pytest.raises(TypeError):
        render()
