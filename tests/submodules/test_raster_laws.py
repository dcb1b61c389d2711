# SPDX-License-Identifier: Apache-2.0
"""Laws of the rasterizer: what must hold for every scene, without a reference."""

import copy

import pytest
import torch
from raster_scenes import Result, Scene, random_scene, run_extension, settings_of
from reference import rotation

from diff_gaussian_rasterization import GaussianRasterizer, __version__, _abi, backend
from tests.drawn import Draws

pytestmark = pytest.mark.usefixtures("each_backend")

IMAGE_CHANNELS = 5


def assert_same_bits(a: Result, b: Result) -> None:
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.radii, b.radii)
    for name, gradient in a.gradients.items():
        assert torch.equal(gradient, b.gradients[name]), name


def empty_image(scene: Scene) -> torch.Tensor:
    """Background colour, depth 0, transmittance 1 [5,H,W]."""
    pixel = torch.cat([scene.view.bg, torch.tensor([0.0, 1.0])])
    return pixel[:, None, None].expand(IMAGE_CHANNELS, scene.view.height, scene.view.width)


def test_permutation_of_gaussians_changes_nothing():
    scene = random_scene(1, n=500, sh_degree=1)
    order = Draws(0).permutation(500)
    permuted = copy.copy(scene)
    permuted.inputs = {k: v[order] for k, v in scene.inputs.items()}
    a, b = run_extension(scene), run_extension(permuted)
    assert torch.equal(a.images, b.images)
    for name, gradient in a.gradients.items():
        assert torch.equal(gradient[order], b.gradients[name]), name


def test_ties_in_depth_go_by_index():
    scene = random_scene(1, n=2, precomputed=True, opacity=(0.8, 0.9))
    for name in ("means3D", "cov3D_precomp"):
        scene.inputs[name] = scene.inputs[name][:1].repeat(2, 1)
    scene.inputs["means3D"].zero_()
    scene.inputs["colors_precomp"] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    image = run_extension(scene).images[:3] - scene.view.bg[:, None, None] * run_extension(scene).images[4]
    centre = image[:, scene.view.height // 2, scene.view.width // 2]
    assert centre[0] > 2 * centre[1]


def test_instruction_set_changes_no_bit():
    """The loops compiled for the base, AVX2 and AVX-512 levels, as far as this machine has them."""
    scene = random_scene(3, n=800, height=70, width=70, sh_degree=3, antialiasing=True)
    precomputed = random_scene(3, n=200, precomputed=True, antialiasing=True)
    current = backend()["cpu"]
    results = {}
    try:
        for isa in ("base", "x86-64-v3", "x86-64-v4"):
            if _abi.LIBRARY.dgr_force_isa(isa.encode()) == 0:
                assert backend()["cpu"] == isa
                results[isa] = (run_extension(scene), run_extension(precomputed))
    finally:
        _abi.LIBRARY.dgr_force_isa(current.encode())
    assert "base" in results
    for pair in results.values():
        assert_same_bits(pair[0], results["base"][0])
        assert_same_bits(pair[1], results["base"][1])


def test_zero_opacity_draws_nothing_and_harms_nobody():
    scene = random_scene(4, n=100)
    clear = random_scene(5, n=50)
    both = copy.copy(scene)
    both.inputs = {k: torch.cat([v, clear.inputs[k]]) for k, v in scene.inputs.items()}
    both.inputs["opacities"][100:] = 0
    alone, together = run_extension(scene), run_extension(both)
    assert torch.equal(alone.images, together.images)
    for name, gradient in together.gradients.items():
        assert torch.equal(gradient[:100], alone.gradients[name]), name
        assert torch.all(gradient[100:] == 0), name


def test_no_gaussians_is_the_background():
    scene = random_scene(6, n=0, sh_degree=1)
    result = run_extension(scene)
    assert torch.equal(result.images, empty_image(scene))
    assert {k: g.shape for k, g in result.gradients.items() if k != "means2D"} == {k: v.shape for k, v in scene.inputs.items()}


def test_nothing_visible_is_the_background():
    scene = random_scene(7, n=30)
    scene.inputs["means3D"] = scene.inputs["means3D"] * 0.01 + 3 * scene.view.campos
    result = run_extension(scene)
    assert torch.equal(result.images, empty_image(scene))
    assert torch.all(result.radii == 0)
    assert all(torch.all(g == 0) for g in result.gradients.values())


def test_scale_modifier_is_a_factor_on_the_scales():
    """Same image as with scaled scales, and by the chain rule 0.7 times their gradient."""
    modified, scaled = random_scene(8, scale_modifier=0.7), random_scene(8)
    scaled.inputs["scales"] = scaled.inputs["scales"] * 0.7
    a, b = run_extension(modified), run_extension(scaled)
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(a.gradients["scales"], 0.7 * b.gradients["scales"], rtol=1e-4, atol=1e-4)


def test_precomputed_colour_and_covariance_render_the_same():
    scene = random_scene(9, n=80)
    q, s = scene.inputs["rotations"], scene.inputs["scales"]
    m = rotation(q) * s[:, None, :]
    sigma = (m @ m.transpose(1, 2)).reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
    colors = (0.5 + 0.28209479177387814 * scene.inputs["shs"][:, 0]).clamp_min(0)
    given = copy.copy(scene)
    given.inputs = {"means3D": scene.inputs["means3D"], "opacities": scene.inputs["opacities"], "cov3D_precomp": sigma,
                    "colors_precomp": colors}  # fmt: skip
    a, b = run_extension(scene), run_extension(given)
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=3e-5)
    torch.testing.assert_close(a.gradients["opacities"], b.gradients["opacities"], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["means3D", "scales", "opacities", "rotations", "shs"])
def test_gaussians_that_are_not_finite_are_dropped_and_counted(name, bad):
    scene = random_scene(10, n=70, sh_degree=1)
    broken = [0, 17, 69]
    kept = [i for i in range(70) if i not in broken]
    without = copy.copy(scene)
    without.inputs = {k: v[kept] for k, v in scene.inputs.items()}
    visible = int((run_extension(scene).radii[broken] > 0).sum())
    scene.inputs[name][broken, ..., -1] = bad
    result, expected = run_extension(scene), run_extension(without)
    assert torch.equal(result.images, expected.images)
    assert torch.all(result.radii[broken] == 0)
    assert result.n_dropped == 3 or (name == "shs" and visible <= result.n_dropped <= 3)
    for key, gradient in result.gradients.items():
        assert torch.equal(gradient[kept], expected.gradients[key]), key
        assert torch.all(gradient[broken] == 0), key


def test_huge_and_tiny_numbers_never_crash():
    scene = random_scene(12, n=64)
    exponents = torch.linspace(-38, 38, 64)[:, None]
    scene.inputs["scales"] = scene.inputs["scales"].sign() * 10**exponents
    scene.inputs["means3D"][::3] *= 1e12
    scene.inputs["opacities"][::5] = 1e30
    result = run_extension(scene)
    assert torch.isfinite(result.images).all()


def test_mark_visible_is_the_near_plane():
    view = random_scene(13).view
    points = Draws(1).normal(200, 3) * 4
    z = (torch.cat([points, torch.ones(200, 1)], 1) @ view.viewmatrix)[:, 2]
    mask = GaussianRasterizer(settings_of(view)).markVisible(points)
    assert mask.dtype == torch.bool and 0 < mask.sum() < 200
    assert torch.equal(mask, z > 0.2)


def test_no_gradient_asked_for_gives_the_same_image_and_no_graph():
    scene = random_scene(14)
    with torch.no_grad():
        color, _, depth_alpha = GaussianRasterizer(settings_of(scene.view))(
            means2D=torch.zeros_like(scene.inputs["means3D"]), **scene.inputs
        )
    assert not color.requires_grad
    assert torch.equal(torch.cat([color, depth_alpha]), run_extension(scene).images)


def test_two_views_alive_at_once_keep_their_own_state():
    """Backward in the order of the forward passes: the pool of frames must not mix them up."""
    scenes = [random_scene(seed, n=300) for seed in (15, 16)]
    expected = [run_extension(s) for s in scenes]
    leaves, losses = [], []
    for s in scenes:
        inputs = {k: v.clone().requires_grad_() for k, v in s.inputs.items()}
        color, _, depth_alpha = GaussianRasterizer(settings_of(s.view))(means2D=torch.zeros(300, 3), **inputs)
        leaves.append(inputs)
        losses.append((torch.cat([color, depth_alpha]) * s.weights).sum())
    for inputs, loss, want in zip(leaves, losses, expected):
        loss.backward()
        for name, leaf in inputs.items():
            assert torch.equal(leaf.grad, want.gradients[name]), name


def test_backward_twice_through_a_kept_graph():
    scene = random_scene(17)
    means = scene.inputs["means3D"].clone().requires_grad_()
    inputs = scene.inputs | {"means3D": means}
    color, _, _ = GaussianRasterizer(settings_of(scene.view))(means2D=torch.zeros_like(means), **inputs)
    color.sum().backward(retain_graph=True)
    first = means.grad.clone()
    color.sum().backward()
    assert torch.equal(means.grad, 2 * first)


def test_only_depth_alpha_in_the_loss():
    scene = random_scene(18)
    scene.weights[:3] = 0
    expected = run_extension(scene)
    means = scene.inputs["means3D"].clone().requires_grad_()
    inputs = scene.inputs | {"means3D": means}
    _, _, depth_alpha = GaussianRasterizer(settings_of(scene.view))(means2D=torch.zeros_like(means), **inputs)
    (depth_alpha * scene.weights[3:]).sum().backward()
    assert torch.equal(means.grad, expected.gradients["means3D"])


def test_backend_says_what_it_is():
    report = backend()
    assert report["outputs"] == 3 and report["abi"] == 3
    assert "diff_gaussian_rasterization" in report["package"]
    assert report["cpu"] in ("base", "x86-64-v3", "x86-64-v4")
    assert __version__.count(".") == 2
