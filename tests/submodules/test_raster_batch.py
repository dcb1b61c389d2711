# SPDX-License-Identifier: Apache-2.0
"""rasterize_batch: B views at once give, to the bit, what they give one by one; every view's gradients can be had."""

import pytest
import torch
from raster_scenes import random_scene, run_batch, run_extension, settings_of, three_views

from diff_gaussian_rasterization import rasterize_batch

pytestmark = pytest.mark.usefixtures("each_backend")


@pytest.mark.parametrize("depth_z", [False, True])
@pytest.mark.parametrize("precomputed", [False, True])
def test_views_with_inputs_of_their_own(precomputed, depth_z):
    scenes = three_views(precomputed)
    alone = [run_extension(s, depth_z) for s in scenes]
    inputs = {name: torch.stack([s.inputs[name] for s in scenes]) for name in scenes[0].inputs}
    images, radii, gradients, _ = run_batch(scenes, inputs, depth_z)
    assert torch.equal(images, torch.stack([r.images for r in alone]))
    assert torch.equal(radii, torch.stack([r.radii for r in alone]))
    for name, gradient in gradients.items():
        assert torch.equal(gradient, torch.stack([r.gradients[name] for r in alone])), name


def test_views_of_the_same_gaussians():
    """means2D has a gradient for each view; the others are summed over the views."""
    scenes = three_views()
    for s in scenes:
        s.inputs = scenes[0].inputs
    alone = [run_extension(s) for s in scenes]
    images, _, gradients, _ = run_batch(scenes, scenes[0].inputs)
    assert torch.equal(images, torch.stack([r.images for r in alone]))
    assert torch.equal(gradients["means2D"], torch.stack([r.gradients["means2D"] for r in alone]))
    for name in scenes[0].inputs:
        assert torch.equal(gradients[name], torch.stack([r.gradients[name] for r in alone]).sum(0)), name


def test_an_expanded_parameter_has_a_gradient_for_each_view():
    """What CoGrad needs: the views' own gradients of one parameter from one backward pass."""
    scenes = three_views()
    for s in scenes:
        s.inputs = scenes[0].inputs
    alone = [run_extension(s).gradients["scales"] for s in scenes]
    scales = scenes[0].inputs["scales"]
    gradients = run_batch(scenes, scenes[0].inputs | {"scales": scales.expand(3, *scales.shape)})[2]
    assert torch.equal(gradients["scales"], torch.stack(alone))


def test_a_gaussian_that_is_not_finite_is_counted_in_every_view():
    scenes = three_views()
    inputs = {k: v.clone() for k, v in scenes[0].inputs.items()}
    inputs["means3D"][4, 1] = torch.nan
    images, radii, gradients, counts = run_batch(scenes, inputs)
    assert int(counts["n_dropped"]) == 3
    assert torch.isfinite(images).all() and not radii[:, 4].any()
    assert all(torch.isfinite(g).all() for g in gradients.values())


def test_no_gaussians():
    scenes = [random_scene(k, n=0, height=5, width=7) for k in range(2)]
    images, radii, gradients, _ = run_batch(scenes, scenes[0].inputs)
    assert radii.shape == (2, 0) and gradients["means2D"].shape == (2, 0, 3)
    for image, scene in zip(images, scenes):
        assert torch.equal(image[:3], scene.view.bg[:, None, None].expand(3, 5, 7))


def test_what_the_views_must_share():
    scene = random_scene(1, n=4, height=8, width=8)
    settings, inputs = settings_of(scene.view), {**scene.inputs, "means2D": torch.zeros(4, 3)}
    with pytest.raises(
        ValueError, match=r"image_width differs between the views of a batch \(8, 9\): give each its own"
    ):
        rasterize_batch([settings, settings._replace(image_width=9)], **inputs)
    with pytest.raises(ValueError, match="settings is empty, expected one GaussianRasterizationSettings for each view"):
        rasterize_batch([], **inputs)
    inputs["scales"] = torch.ones(3, 4, 3)
    with pytest.raises(ValueError, match=r"scales has shape \(3, 4, 3\), expected \(4, 3\) or \(2, 4, 3\)"):
        rasterize_batch([settings, settings], **inputs)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_change_no_bit_of_a_batch(n_threads):
    scenes = three_views()
    inputs = {name: torch.stack([s.inputs[name] for s in scenes]) for name in scenes[0].inputs}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        images, _, gradients, _ = run_batch(scenes, inputs)
    finally:
        torch.set_num_threads(before)
    alone = [run_extension(s) for s in scenes]
    assert torch.equal(images, torch.stack([r.images for r in alone]))
    assert torch.equal(gradients["shs"], torch.stack([r.gradients["shs"] for r in alone]))
