# SPDX-License-Identifier: Apache-2.0
"""CUDA tensors give what CPU tensors give, on the CUDA device."""

import pytest
import torch

from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer
from simple_knn._C import distCUDA2

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def _render(device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    draw = [torch.rand(20, size, generator=generator) for size in (3, 3, 1, 3, 3, 4)]
    means, means2d, opacities, colors, scales, rotations = leaves = [x.to(device).requires_grad_() for x in draw]
    matrix = torch.eye(4)
    matrix[3, 2] = 3.0  # three units in front of the camera
    settings = GaussianRasterizationSettings(
        16, 24, 0.5, 0.4, *[torch.zeros(3, device=device), 1.0], matrix.to(device), matrix.to(device), 0, torch.zeros(3, device=device)
    )
    outputs = GaussianRasterizer(settings)(means, means2d, opacities, None, colors, scales * 0.1, rotations)
    assert all(x.device.type == device for x in outputs)
    (outputs[0].sum() + outputs[2].square().sum()).backward()
    return [*(x.detach().cpu() for x in outputs), *(x.grad.cpu() for x in leaves)]


def test_images_and_gradients_are_those_of_the_cpu():
    for ours, cpu in zip(_render("cuda"), _render("cpu"), strict=True):
        torch.testing.assert_close(ours, cpu)


def test_neighbour_distances_are_those_of_the_cpu():
    points = torch.rand(50, 3)
    torch.testing.assert_close(distCUDA2(points.cuda()).cpu(), distCUDA2(points))
