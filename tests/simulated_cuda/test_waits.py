# SPDX-License-Identifier: Apache-2.0
"""How often the host waits for the device, at 100,000 Gaussians as at sixty: a number that does not grow with them."""

import pytest
import torch

from cograd.fusion import flat, fuse, inner, norm
from tests.drawn import Draws

SHAPES = {"xyz": (3,), "f_dc": (1, 3), "f_rest": (8, 3), "opacity": (1,), "scaling": (3,), "rotation": (4,)}
CALLS = {
    "norm": (lambda g: norm(g), 1),
    "norm, flat": (lambda g: norm(flat(g)), 1),
    "inner": (lambda g: inner(g, g), 1),
    "nothing to fuse": (lambda g: fuse(g, []), 0),
    "nothing to fuse, flat": (lambda g: fuse(flat(g), []), 0),
    "two neighbours": (lambda g: fuse(g, [(1.0, g), (0.5, g)]), 2),
    "two neighbours, each tensor": (lambda g: fuse(g, [(1.0, g), (0.5, g)], projection="group"), 2),
}


@pytest.mark.parametrize("count", [1, 60, 100_000])
@pytest.mark.parametrize("call", CALLS)
def test_fusion_waits_a_fixed_number_of_times(gpu, call, count):
    gradient = {name: Draws(0).normal(count, *shape).to("cuda") for name, shape in SHAPES.items()}
    gpu.waits.clear()
    run, expected = CALLS[call]
    run(gradient)
    assert sum(gpu.waits.values()) == expected, gpu.waits


def test_the_device_gives_the_norm_of_the_host(gpu):
    gradient = {name: Draws(1).normal(5000, *shape) for name, shape in SHAPES.items()}
    on_device = {name: x.to("cuda") for name, x in gradient.items()}
    assert norm(on_device) == pytest.approx(norm(gradient), rel=1e-6)
    assert inner(on_device, on_device) == pytest.approx(inner(gradient, gradient), rel=1e-6)
    assert norm({}) == inner({}, {}) == 0.0 and norm({"x": torch.zeros(0, device="cuda")}) == 0.0
