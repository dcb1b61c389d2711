# SPDX-License-Identifier: Apache-2.0
"""distCUDA2 against brute force, bit for bit: both take the same squares and sums in float32."""

import pytest
import torch

from simple_knn._C import distCUDA2
from tests.drawn import Draws


def brute_force(points: torch.Tensor) -> torch.Tensor:
    """Mean of the (up to) three smallest squared distances to other points [N]."""
    n = len(points)
    k = min(3, n - 1)
    if k < 1:
        return torch.zeros(n)
    out = torch.zeros(n)
    for i in range(n):
        d = (points - points[i]) ** 2
        d = d[:, 0] + d[:, 1] + d[:, 2]
        d[i] = float("inf")
        out[i] = sum(d.topk(k, largest=False).values.sort().values.tolist(), torch.zeros(())) / k
    return out


def cloud(kind: str, n: int = 700) -> torch.Tensor:
    draws = Draws(5)
    points = draws.normal(n, 3)
    if kind == "clusters":  # nine decades of density
        points = points * torch.logspace(-8, 1, n)[:, None] + 5 * draws.integers(0, 4, n, 1)
    elif kind == "duplicates":
        points = points[draws.integers(0, n // 5, n)]
    elif kind == "all the same":
        points = points[:1].repeat(n, 1)
    elif kind == "plane":
        points[:, 1] = 0.25
    elif kind == "line":
        points[:, 1:] = 0
    elif kind == "lattice":  # every distance tied
        points = torch.cartesian_prod(*[torch.arange(8.0)] * 3)
    elif kind == "far from the origin":
        points = points * 0.01 + 1000
    elif kind == "two far clusters of unequal size":
        points[:3] += 1e6
    return points


@pytest.mark.parametrize(
    "kind",
    ["ball", "clusters", "duplicates", "all the same", "plane", "line", "lattice", "far from the origin",
     "two far clusters of unequal size"],
)  # fmt: skip
def test_equals_brute_force(kind):
    points = cloud(kind)
    assert torch.equal(distCUDA2(points), brute_force(points))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 15, 16, 17, 18, 33, 64, 65])
def test_few_points(n):
    points = cloud("ball", n)
    result = distCUDA2(points)
    assert result.shape == (n,) and result.dtype == torch.float32
    assert torch.equal(result, brute_force(points))


def test_fewer_than_four_by_hand():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    assert distCUDA2(points[:1]).tolist() == [0.0]
    assert distCUDA2(points[:2]).tolist() == [1.0, 1.0]
    assert distCUDA2(points).tolist() == [2.5, 3.0, 4.5]


def test_thread_count_and_order_change_nothing():
    points = cloud("ball", 20000)
    order = Draws(1).permutation(20000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = distCUDA2(points)
        torch.set_num_threads(3)
        three = distCUDA2(points)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)
    assert torch.equal(distCUDA2(points[order]), one[order])


def test_strided_points_are_read_as_meant():
    points = cloud("ball", 100)
    assert torch.equal(distCUDA2(points.T.contiguous().T), distCUDA2(points))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(4, 3, dtype=torch.float64), r"points is torch.float64, expected a torch.float32 tensor"),
        ([[0.0, 0.0, 0.0]], r"points is list, expected a torch.float32 tensor"),
        (torch.zeros(4, 2), r"points has shape \(4, 2\), expected \(N, 3\)"),
        (torch.zeros(4, 3, device="meta"), r"points is on meta; expected a tensor on the CPU or on a CUDA device"),
        (torch.tensor([[0.0, float("nan"), 0], [1, 1, float("inf")], [0, 0, 0]]), r"2 of 3 points are NaN or infinite"),
    ],
)
def test_bad_points(points, message):
    with pytest.raises(ValueError, match=message):
        distCUDA2(points)
