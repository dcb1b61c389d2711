# SPDX-License-Identifier: Apache-2.0
"""The extensions under torch.set_default_device: the libraries write where they are told to, on the inputs' device.

The meta device has no memory: what is made on it in place of the CPU's has the address 0.
"""

import pytest
import torch
from raster_scenes import random_scene, run_extension, run_views, settings_of, three_views

from diff_gaussian_rasterization import GaussianRasterizer
from simple_knn._C import distCUDA2
from tests.drawn import Draws

pytestmark = pytest.mark.usefixtures("each_backend")


def rendered(scene) -> list[torch.Tensor]:
    """Images, radii and gradients."""
    result = run_extension(scene)
    return [result.images, result.radii, *result.gradients.values()]


def rendered_together(scenes) -> list[torch.Tensor]:
    """Of several views."""
    return [x for one in run_views(scenes) for x in (one.images, one.radii, *one.gradients.values())]


def visible(scene) -> list[torch.Tensor]:
    """The mask of the positions in front of the camera, of which some are behind it."""
    return [GaussianRasterizer(settings_of(scene.view)).markVisible(scene.inputs["means3D"] * 4)]


def distances(points) -> list[torch.Tensor]:
    """Of the neighbours."""
    return [distCUDA2(points)]


CALLS = {
    "GaussianRasterizer": (rendered, lambda: random_scene(1, n=50, height=24, width=20, sh_degree=1)),
    "rasterize_views": (rendered_together, three_views),
    "markVisible": (visible, lambda: random_scene(1, n=50)),
    "distCUDA2": (distances, lambda: Draws(3).normal(60, 3)),
}


@pytest.mark.parametrize(("call", "made"), CALLS.values(), ids=CALLS)
def test_results_are_the_same_under_another_default_device(call, made):
    given = made()
    with torch.device("meta"):  # first, so that what is made at the first call is made here
        found = call(given)
    expected = call(given)
    assert len(found) == len(expected)
    assert all(a.device.type == "cpu" and torch.equal(a, b) for a, b in zip(found, expected, strict=True))
