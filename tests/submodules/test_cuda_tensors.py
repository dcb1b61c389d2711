# SPDX-License-Identifier: Apache-2.0
"""On a machine with a GPU: CUDA tensors give what CPU tensors give, by the CUDA kernels where they are built.

The kernels themselves are tested without a GPU through the shim; these tests are for what the shim cannot show: real
memory, streams, and the code that nvcc makes. Tolerances: exp2f of the GPU is within two units in the last place.
"""

import pytest
import torch
from raster_scenes import Result, load_golden, random_scene, run_extension, settings_on

from diff_gaussian_rasterization import GaussianRasterizer, _cuda
from simple_knn._C import distCUDA2
from tests.drawn import Draws

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CASES = [
    "aniso_big_n40_64x64", "ball_n2000_128x128", "near_offscreen_n120_40x56", "opaque_overlap_n300_48x48",
    "precomp_cov_color_n80_40x40", "quat_unnormalised_n50_32x32", "sh1of16_scalemod07_n100_33x50", "sh3_n64_48x64",
    "tiny_random_n50_32x48",
]  # fmt: skip


@pytest.fixture
def kernels():
    """Skips where CUDA tensors are carried to the CPU."""
    if not _cuda.usable(torch.device(DEVICE, 0)):
        pytest.skip(f"no CUDA kernels for this device: {_cuda.WHY_NOT}")


def large_scene():
    """Enough work to fill a GPU for a while."""
    return random_scene(2, n=20000, height=250, width=270, sh_degree=3, scale=0.01)


def assert_close(given: Result, expected: Result, gradient_tolerance: float = 1e-4) -> None:
    assert torch.equal(given.radii, expected.radii)
    torch.testing.assert_close(given.images, expected.images, rtol=0, atol=5e-5)
    for name, gradient in given.gradients.items():
        bound = gradient_tolerance * expected.gradients[name].abs().max()
        assert (gradient - expected.gradients[name]).abs().max() <= bound, name


@pytest.mark.parametrize("depth_z", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_recorded_cases_are_those_of_the_cpu(golden_dir, case, depth_z):
    scene = load_golden(golden_dir / "raster" / f"{case}.npz")
    tolerance = 1e-3 if case.startswith("aniso") else 1e-4
    assert_close(run_extension(scene, depth_z, DEVICE), run_extension(scene, depth_z), tolerance)


def test_a_large_scene_is_that_of_the_cpu_and_repeats_bit_for_bit(kernels):
    scene = large_scene()
    first, second = (run_extension(scene, device=DEVICE) for _ in range(2))
    assert_close(first, run_extension(scene), 1e-3)
    assert torch.equal(first.images, second.images)
    assert all(torch.equal(g, second.gradients[name]) for name, g in first.gradients.items())


def test_pairs_that_do_not_fit_change_nothing_but_speed(kernels, monkeypatch):
    scene = random_scene(3, n=3000, height=120, width=130, scale=0.05)
    expected = run_extension(scene, device=DEVICE)
    monkeypatch.setattr(_cuda.PairCount, "capacity", lambda self, n_splats: n_splats)
    result = run_extension(scene, device=DEVICE)
    assert torch.equal(result.images, expected.images)
    assert_close(result, expected)


def test_the_callers_stream_is_used_and_nothing_waits(kernels):
    """torch is told to raise when it waits; rendering on a side stream gives the same bits."""
    scene = large_scene()
    expected = run_extension(scene, device=DEVICE)
    leaves = {k: v.to(DEVICE).requires_grad_() for k, v in scene.inputs.items()}
    rasterizer, weights = GaussianRasterizer(settings_on(scene.view, DEVICE)), scene.weights.to(DEVICE)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.set_sync_debug_mode("error")
        try:
            color, _, depth_alpha = rasterizer(means2D=torch.zeros_like(leaves["means3D"]), **leaves)
            images = torch.cat([color, depth_alpha])
            (images * weights).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.equal(images.detach().cpu(), expected.images)
    assert all(torch.equal(v.grad.cpu(), expected.gradients[k]) for k, v in leaves.items())


def test_mark_visible_is_that_of_the_cpu():
    scene = random_scene(4)
    points = Draws(0).normal(1000, 3) * 4
    masks = [GaussianRasterizer(settings_on(scene.view, d)).markVisible(points.to(d)).cpu() for d in (DEVICE, "cpu")]
    assert torch.equal(*masks)


@pytest.mark.parametrize("n", [0, 1, 3, 50, 100000])
def test_neighbour_distances_are_those_of_the_cpu(n):
    points = Draws(0).uniform(n, 3)
    assert torch.equal(distCUDA2(points.to(DEVICE)).cpu(), distCUDA2(points))
