# SPDX-License-Identifier: Apache-2.0
"""Spherical harmonics: inverse pairs, orthonormality, the constants' signs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.drawn import Draws
from utils.sh_utils import RGB2SH, SH2RGB, eval_sh, sh_basis


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5))
def test_colour_and_coefficient_are_inverse(values) -> None:
    rgb = np.array(values)
    np.testing.assert_allclose(SH2RGB(RGB2SH(rgb)), rgb, atol=1e-12)


def _directions(n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Product quadrature on the sphere, exact for polynomials of degree 6: directions [M, 3] and weights [M]."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) / 16 * 2 * math.pi
    z, p = np.meshgrid(nodes, phi, indexing="ij")
    r = np.sqrt(1 - z**2)
    points = np.stack([r * np.cos(p), r * np.sin(p), z], axis=-1).reshape(-1, 3)
    return torch.from_numpy(points), torch.from_numpy(np.repeat(weights * 2 * math.pi / 16, 16))


def test_the_basis_is_orthonormal_on_the_sphere() -> None:
    directions, weights = _directions()
    basis = sh_basis(3, directions)
    gram = basis.T @ (weights[:, None] * basis)
    np.testing.assert_allclose(gram, np.eye(16), atol=1e-12)


def test_signs_and_order() -> None:
    """The Condon-Shortley signs of 3D Gaussian Splatting: degree 1 is (-y, z, -x); some of degree 2 and 3."""
    x, y, z = (sh_basis(3, torch.eye(3))[k] for k in range(3))
    assert [float(v) > 0 for v in (z[2], z[6], z[12])] == [True] * 3
    assert [float(v) < 0 for v in (y[1], x[3])] == [True] * 2
    assert float(x[8]) > 0 > float(y[8])  # x^2 - y^2
    assert float(x[15]) < 0 < float(y[9])  # -(x^3 - 3xy^2), and -(3x^2y - y^3)
    assert float(x[13]) > 0 and float(y[11]) > 0


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_eval_uses_the_active_degree_only(degree) -> None:
    coefficients = Draws(0).normal(4, 16, 3)
    directions = Draws(1).directions(4, 3)
    cut = coefficients.clone()
    cut[:, (degree + 1) ** 2 :] = 0
    np.testing.assert_allclose(eval_sh(degree, coefficients, directions), eval_sh(3, cut, directions), atol=1e-5)


def test_an_impossible_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="degree 4 given, expected 0 to 3"):
        sh_basis(4, torch.eye(3))
