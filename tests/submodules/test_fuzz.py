# SPDX-License-Identifier: Apache-2.0
"""Some cases of fuzz.py, and what it has found."""

import math
from dataclasses import replace

import fuzz
import torch
from raster_scenes import random_scene, run_extension

CASES_PER_BACKEND = 60


def test_a_slice_of_the_fuzzer_finds_nothing(each_backend):
    complaints: list[str] = []
    assert fuzz.run(0, math.inf, CASES_PER_BACKEND, complaints.append) == [], complaints


def test_a_seed_is_a_case():
    first, again = fuzz.draw_case(11), fuzz.draw_case(11)
    assert first.scene.inputs.keys() == again.scene.inputs.keys()
    for name, x in first.scene.inputs.items():
        assert torch.equal(x, again.scene.inputs[name]), name


def test_the_fuzzer_notices_a_gaussian_too_many(monkeypatch):
    """A backend that draws one Gaussian twice is found out."""

    def twice(scene, depth_z_gradient=False):
        inputs = {k: x.clone() for k, x in scene.inputs.items()}
        inputs["opacities"][:1] = 0.5
        return run_extension(replace(scene, inputs=inputs), depth_z_gradient)

    monkeypatch.setattr(fuzz, "run_extension", twice)
    assert len(fuzz.run(1, math.inf, limit=20, tell=lambda line: None)) > 5


def test_pixels_beyond_the_image_take_no_gaussian_in_the_backward_pass(each_backend):
    """Found by fuzz.py: 1/(1-alpha) of 20 opaque Gaussians overflowed beside the image, and gradients became NaN."""
    scene = random_scene(5, n=40, height=1, width=1, scale=0.05, opacity=(1.0, 1.2))
    pixel_2_2 = torch.tensor([4 * 0.3 * 3, 4 * 0.3 * 3, 3.0, 1.0])  # in view space, at depth 3; the image is pixel 0, 0
    scene.inputs["means3D"][:] = (pixel_2_2 @ torch.linalg.inv(scene.view.viewmatrix))[:3]
    for name, gradient in run_extension(scene).gradients.items():
        assert torch.isfinite(gradient).all(), name


def test_a_colour_of_minus_infinity_is_dropped(each_backend):
    """Found by fuzz.py: the clamp at 0 hid it from the check, and its gradients were NaN."""
    scene = random_scene(5, n=20)
    scene.inputs["shs"][3, 0, 1] = -torch.inf
    given = run_extension(scene)
    assert given.n_dropped == 1 and given.radii[3] == 0
    assert all(torch.isfinite(g).all() for g in given.gradients.values())
