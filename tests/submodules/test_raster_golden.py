# SPDX-License-Identifier: Apache-2.0
"""The nine recorded rasterizer cases (float64, from the equations), forward and backward, and the reference on them.

Tolerances: about four times the largest error measured (rgb 1.4e-6, depth 5.4e-6, gradients 4.4e-6 of the maximum);
the case of needle-shaped Gaussians has rgb 6.3e-6 and depth 2.4e-5 (CUDA; the CPU 7.7e-7 and 3.9e-6) and rotation
gradients 7.5e-5.
"""

import pytest
import torch
from raster_scenes import Result, Scene, load_golden, run_extension, run_reference

pytestmark = pytest.mark.usefixtures("each_backend")

CASES = [
    "aniso_big_n40_64x64", "ball_n2000_128x128", "near_offscreen_n120_40x56", "opaque_overlap_n300_48x48",
    "precomp_cov_color_n80_40x40", "quat_unnormalised_n50_32x32", "sh1of16_scalemod07_n100_33x50", "sh3_n64_48x64",
    "tiny_random_n50_32x48",
]  # fmt: skip
NEEDLES = "aniso_big_n40_64x64"


def scene_of(golden_dir, case: str) -> Scene:
    return load_golden(golden_dir / "raster" / f"{case}.npz")


def image_errors(result: Result, scene: Scene) -> dict[str, float]:
    """Largest absolute error of colour, depth and transmittance over the pixels that are not fragile."""
    solid = ~torch.from_numpy(scene.expected["out_fragile"])
    expected = torch.cat([torch.from_numpy(scene.expected[f"out_{k}"]).double() for k in ("rgb", "depth", "final_T")])
    error = (result.images.double() - expected).abs()[:, solid]
    return {"rgb": error[:3].max().item(), "depth": error[3].max().item(), "transmittance": error[4].max().item()}


def gradient_errors(result: Result, scene: Scene, depth_z: bool) -> dict[str, tuple[float, float]]:
    """Per input: largest error over the largest gradient, and 1 - cosine."""
    errors = {}
    for name, given in result.gradients.items():
        key = "out_grad_means3D" if depth_z and name == "means3D" else f"nodepthz_{name}"
        expected = torch.from_numpy(scene.expected[key]).reshape(given.shape)
        cosine = torch.nn.functional.cosine_similarity(given.double().flatten(), expected.flatten(), dim=0)
        errors[name] = (((given - expected).abs().max() / expected.abs().max()).item(), 1 - cosine.item())
    return errors


@pytest.mark.parametrize("case", CASES)
def test_images_and_radii(golden_dir, case):
    scene = scene_of(golden_dir, case)
    result = run_extension(scene)
    factor = 5 if case == NEEDLES else 1
    errors = image_errors(result, scene)
    assert errors["rgb"] < 6e-6 * factor
    assert errors["depth"] < 2.2e-5 * factor
    assert errors["transmittance"] < 7.5e-6 * factor
    assert torch.equal(result.radii, torch.from_numpy(scene.expected["out_radii"]))


@pytest.mark.parametrize("depth_z", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_gradients(golden_dir, case, depth_z):
    scene = scene_of(golden_dir, case)
    errors = gradient_errors(run_extension(scene, depth_z), scene, depth_z)
    for name, (largest, angle) in errors.items():
        assert largest < (2e-4 if case == NEEDLES else 2e-5), name
        assert angle < 1e-9, name


def test_depth_z_gradient_is_a_different_gradient(golden_dir):
    """Guards the two tests above against a flag that does nothing."""
    scene = scene_of(golden_dir, "tiny_random_n50_32x48")
    off, on = (run_extension(scene, flag).gradients["means3D"] for flag in (False, True))
    assert (off - on).abs().max() > 1e-3 * off.abs().max()


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("ball")])
def test_reference_agrees_with_recorded(golden_dir, case):
    """The float64 reference of these tests, under the original's gradient rules."""
    depth_z = case.startswith(("sh1", "sh3"))
    scene = scene_of(golden_dir, case)
    result = run_reference(scene, depth_z)
    assert max(image_errors(result, scene).values()) < 1e-6
    for name, (largest, _) in gradient_errors(result, scene, depth_z).items():
        assert largest < 1e-6, name
