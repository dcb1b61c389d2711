# SPDX-License-Identifier: Apache-2.0
"""rasterize_views: views rendered by one call give, to the bit, what they give one by one, gradients included."""

import pytest
import torch
from raster_scenes import Result, random_scene, run_extension, run_views, settings_of, three_views

from diff_gaussian_rasterization import rasterize_views

pytestmark = pytest.mark.usefixtures("each_backend")


def assert_same_bits(given: list[Result], expected: list[Result]) -> None:
    assert len(given) == len(expected)
    for one, want in zip(given, expected, strict=True):
        assert torch.equal(one.images, want.images) and torch.equal(one.radii, want.radii)
        assert one.gradients.keys() == want.gradients.keys()
        for name, gradient in one.gradients.items():
            assert torch.equal(gradient, want.gradients[name]), name


@pytest.mark.parametrize("depth_z", [False, True])
@pytest.mark.parametrize("precomputed", [False, True])
def test_views_with_inputs_of_their_own(precomputed, depth_z):
    scenes = three_views(precomputed)
    assert_same_bits(run_views(scenes, depth_z), [run_extension(s, depth_z) for s in scenes])


def test_views_of_the_same_tensors_have_gradients_of_their_own():
    """What CoGrad needs: one backward pass, and the gradient of each view apart."""
    scenes = three_views()
    for s in scenes:
        s.inputs = scenes[0].inputs
    assert_same_bits(run_views(scenes), [run_extension(s) for s in scenes])


def test_an_input_given_to_several_views_gets_the_sum():
    scenes = three_views()
    for s in scenes:
        s.inputs = scenes[0].inputs
    leaves = {k: v.clone().requires_grad_() for k, v in scenes[0].inputs.items()}
    means2d = torch.zeros_like(leaves["means3D"])
    rendered = rasterize_views([settings_of(s.view) for s in scenes], [{**leaves, "means2D": means2d}] * 3)
    sum(
        (torch.cat([color, depth_alpha]) * s.weights).sum() for (color, _, depth_alpha), s in zip(rendered, scenes)
    ).backward()
    alone = [run_extension(s).gradients for s in scenes]
    for name, leaf in leaves.items():
        assert torch.equal(leaf.grad, alone[0][name] + alone[1][name] + alone[2][name]), name


def test_a_view_without_a_loss_has_no_gradient_and_harms_no_other():
    scenes = three_views()
    expected = run_extension(scenes[1])
    leaves = [{k: v.clone().requires_grad_() for k, v in s.inputs.items()} for s in scenes]
    zeros = torch.zeros_like(leaves[0]["means3D"])
    rendered = rasterize_views([settings_of(s.view) for s in scenes], [{**x, "means2D": zeros} for x in leaves])
    (torch.cat([rendered[1][0], rendered[1][2]]) * scenes[1].weights).sum().backward()
    for name, leaf in leaves[1].items():
        assert torch.equal(leaf.grad, expected.gradients[name]), name
    assert not any(x.grad.any() for v in (0, 2) for x in leaves[v].values())


def test_a_gaussian_that_is_not_finite_is_left_out_of_every_view():
    scenes = three_views()
    inputs = {k: v.clone() for k, v in scenes[0].inputs.items()}
    inputs["means3D"][4, 1] = torch.nan
    for s in scenes:
        s.inputs = inputs
    for result in run_views(scenes):
        assert torch.isfinite(result.images).all() and not result.radii[4]
        assert all(torch.isfinite(g).all() for g in result.gradients.values())


def test_no_gaussians():
    scenes = [random_scene(k, n=0, height=5, width=7) for k in range(2)]
    for result, scene in zip(run_views(scenes), scenes, strict=True):
        assert result.radii.shape == (0,) and result.gradients["means2D"].shape == (0, 3)
        assert torch.equal(result.images[:3], scene.view.bg[:, None, None].expand(3, 5, 7))


def test_more_views_than_one_launch_takes():
    scenes = [random_scene(80 + k, n=30, height=9, width=20) for k in range(18)]
    assert_same_bits(run_views(scenes), [run_extension(s) for s in scenes])


def one_view():
    scene = random_scene(1, n=4, height=8, width=8)
    return settings_of(scene.view), {**scene.inputs, "means2D": torch.zeros(4, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_width": 9}, r"image_width differs between the views \(8, 9\): render them in calls of their own"),
        ({"depth_z_gradient": True}, r"depth_z_gradient differs between the views \(False, True\)"),
    ],
)
def test_settings_that_the_views_must_share(change, message):
    settings, inputs = one_view()
    with pytest.raises(ValueError, match=message):
        rasterize_views([settings, settings._replace(**change)], [inputs, inputs])


def test_every_view_needs_settings_and_inputs():
    settings, inputs = one_view()
    for given in (([], []), ([settings], []), ([settings], [inputs, inputs])):
        with pytest.raises(ValueError, match="give one GaussianRasterizationSettings and one dict of inputs for each view"):
            rasterize_views(*given)


def test_inputs_that_the_views_must_share():
    settings, inputs = one_view()
    more_coefficients = inputs | {"shs": torch.zeros(4, 4, 3)}
    with pytest.raises(ValueError, match=r"shs is \(4, 1, 3\) on cpu in view 0, \(4, 4, 3\) on cpu in view 1: give all views"):
        rasterize_views([settings] * 2, [inputs, more_coefficients])
    colors = {k: v for k, v in inputs.items() if k != "shs"} | {"colors_precomp": torch.zeros(4, 3)}
    with pytest.raises(ValueError, match=r"shs is \(4, 1, 3\) on cpu in view 0, absent in view 2"):
        rasterize_views([settings] * 3, [inputs, inputs, colors])
    fewer = {k: v[:3] for k, v in inputs.items()}
    with pytest.raises(ValueError, match=r"means3D is \(4, 3\) on cpu in view 0, \(3, 3\) on cpu in view 1"):
        rasterize_views([settings] * 2, [inputs, fewer])
    with pytest.raises(ValueError, match=r"scales has shape \(3, 3\), expected \(4, 3\)"):
        rasterize_views([settings], [inputs | {"scales": torch.ones(3, 3)}])


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_change_no_bit(n_threads):
    scenes = three_views()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        together = run_views(scenes)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(together, [run_extension(s) for s in scenes])
