# SPDX-License-Identifier: Apache-2.0
"""Laws of the rasterizer's screen filter (antialiasing). Images and gradients are held to the reference in
test_raster_reference.py, for all vector widths in test_raster_laws.py.

A pixel's opacity is 1 - T; what a Gaussian covers is the sum over the pixels times a pixel's area.
"""

import math
from dataclasses import replace

import pytest
import shim_build
import torch
from raster_scenes import Result, Scene, random_scene, run_extension, run_views, three_views

from diff_gaussian_rasterization import _abi, _cuda
from tests.drawn import Draws

pytestmark = pytest.mark.usefixtures("each_backend")


def one_gaussian(scale: float, antialiasing: bool, side_px: int) -> Scene:
    """Round, of opacity 0.95, in the middle of a square image."""
    scene = random_scene(3, n=1, height=side_px, width=side_px, antialiasing=antialiasing)
    scene.inputs["means3D"].zero_()
    scene.inputs["opacities"].fill_(0.95)
    scene.inputs["scales"].fill_(scale)
    return scene


def covered(scene: Scene) -> float:
    """Share of the image."""
    return float((1 - run_extension(scene).images[4].double()).mean())


def test_what_a_small_gaussian_covers_does_not_grow_when_the_resolution_falls():
    """A deviation of 0.5 px, then of 0.25 px: opacity times 2 pi sigma^2 either way, to 0.8 %. Without the filter it is
    2.2 times that, and grows to 5.8 times."""
    scale = 0.5 * 2 * 0.3 * 3 / 256  # half a pixel in world units: tan(fov/2) is 0.3, the distance 3
    true = 0.95 * 2 * math.pi * (0.5 / 256) ** 2
    for side_px, blurred in ((256, 2.2), (128, 5.8)):
        assert covered(one_gaussian(scale, True, side_px)) == pytest.approx(true, rel=0.02)
        assert covered(one_gaussian(scale, False, side_px)) == pytest.approx(blurred * true, rel=0.02)


def test_two_sampling_rates_show_one_scene():
    """Half the pixels show what averages of 2x2 pixels show, of Gaussians of about a pixel. Ten seeds: a mean error of
    0.0023 to 0.0046, without the filter at least 4.8 times as large."""
    errors = {}
    for antialiasing in (True, False):
        scene = random_scene(5, n=400, height=128, width=128, scale=0.01, antialiasing=antialiasing)
        coarse = replace(scene, view=replace(scene.view, height=64, width=64), weights=scene.weights[:, ::2, ::2])
        fine = torch.nn.functional.avg_pool2d(run_extension(scene).images[:3], 2)
        errors[antialiasing] = float((run_extension(coarse).images[:3] - fine).abs().mean())
    assert errors[True] < 0.005 and errors[False] > 4 * errors[True]


def test_a_wide_gaussian_is_what_it_was():
    """Of 20 px across the filter takes 0.1 %."""
    scale = 20 / 256 * 2 * 0.3 * 3
    with_filter, without = (run_extension(one_gaussian(scale, on, 256)).images[:3] for on in (True, False))
    torch.testing.assert_close(with_filter, without, rtol=0, atol=1e-3)


def finite(result: Result) -> bool:
    return all(bool(x.isfinite().all()) for x in (result.images, *result.gradients.values()))


@pytest.mark.parametrize("precomputed", [False, True])
def test_what_has_no_area_on_the_screen_is_not_drawn(precomputed):
    """Points, lines, and discs seen edge on: the determinant is 0 or, by rounding, below."""
    scene = random_scene(6, n=40, precomputed=precomputed, opacity=(0.9, 1.0), antialiasing=True)
    if precomputed:
        along = Draws(0).normal(40, 3)
        products = along[:, :, None] * along[:, None, :] * 0.01
        scene.inputs["cov3D_precomp"] = products.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]].contiguous()
    else:
        scene.inputs["scales"][:, 1:] = 0.0
        scene.inputs["scales"][::3] = 0.0
    result = run_extension(scene)
    assert finite(result)
    background = scene.view.bg[:, None, None]
    assert float((result.images[:3] - background).abs().max()) < (0.02 if precomputed else 1e-6)
    drawn = run_extension(replace(scene, view=replace(scene.view, antialiasing=False)))
    assert float((drawn.images[:3] - background).abs().max()) > 0.2


def test_an_opacity_above_one_meets_the_bound_and_stays_finite():
    """Beyond 3.9 the least compensation of 1/1000 is drawn; no gradient goes through it to the shape's determinant."""
    scene = random_scene(6, n=40, antialiasing=True)
    scene.inputs["opacities"].fill_(500.0)
    scene.inputs["scales"][:, 1:] = 0.0
    assert finite(run_extension(scene))


def test_huge_gaussians_keep_their_opacity():
    """Both determinants are infinite in float32; their ratio is taken for 1."""
    scene = random_scene(7, n=3, antialiasing=True, opacity=(0.5, 0.5))
    scene.inputs["scales"].fill_(1e9)
    without = replace(scene, view=replace(scene.view, antialiasing=False))
    image = run_extension(scene).images
    assert torch.equal(image, run_extension(without).images) and float(image[4].max()) < 0.7


def test_views_rendered_together_are_filtered_alike():
    scenes = three_views()
    for s in scenes:
        s.view.antialiasing = True
    for together, scene in zip(run_views(scenes), scenes, strict=True):
        alone = run_extension(scene)
        assert torch.equal(together.images, alone.images)
        assert all(torch.equal(together.gradients[name], g) for name, g in alone.gradients.items())
    scenes[1].view.antialiasing = False
    with pytest.raises(ValueError, match="antialiasing differs between the views"):
        run_views(scenes)


def test_a_library_without_the_filter_is_refused(monkeypatch, each_backend):
    """It would ignore the flag. Its number is that of the ABI before."""
    if each_backend == "cpu":
        monkeypatch.setattr(_abi, "ABI", _abi.ABI + 1)
        with pytest.raises(ImportError, match=r"_cpu.so has ABI 3, this Python code needs 4: install it again"):
            _abi._load_library()
        return
    monkeypatch.setattr(_cuda, "ABI", _cuda.ABI + 1)
    with pytest.raises(ImportError, match="has ABI 3, this Python code needs 4: install it again"):
        _cuda.load(shim_build.compiled(shim_build.RASTERIZER))
