# SPDX-License-Identifier: Apache-2.0
"""Real spherical harmonics up to degree 3, with the signs and order that 3D Gaussian Splatting files use.

Colour of a Gaussian seen along the unit direction d: 0.5 + sum_k Y_k(d) c_k, clamped below at 0 by the caller.
The basis is Y_lm in order m = -l..l; the constants are the usual normalisations, e.g. C0 = 1 / (2 sqrt(pi)).
"""

import math
from typing import TypeVar

import numpy as np
import torch

_PI = math.pi
C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (
    math.sqrt(15 / _PI) / 2,
    -math.sqrt(15 / _PI) / 2,
    math.sqrt(5 / _PI) / 4,
    -math.sqrt(15 / _PI) / 2,
    math.sqrt(15 / _PI) / 4,
)
C3 = (
    -math.sqrt(35 / (2 * _PI)) / 4,
    math.sqrt(105 / _PI) / 2,
    -math.sqrt(21 / (2 * _PI)) / 4,
    math.sqrt(7 / _PI) / 4,
    -math.sqrt(21 / (2 * _PI)) / 4,
    math.sqrt(105 / _PI) / 4,
    -math.sqrt(35 / (2 * _PI)) / 4,
)

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def RGB2SH(rgb: Array) -> Array:
    """Degree-0 coefficient whose colour is `rgb`."""
    return (rgb - 0.5) / C0


def SH2RGB(sh: Array) -> Array:
    """Colour of a degree-0 coefficient."""
    return sh * C0 + 0.5


def sh_basis(degree: int, directions: torch.Tensor) -> torch.Tensor:
    """Basis values at unit directions [N, 3] -> [N, (degree + 1)^2]. Raises ValueError outside 0..3."""
    if degree not in (0, 1, 2, 3):
        raise ValueError(f"spherical-harmonics degree {degree} given, expected 0 to 3; set ModelParams.sh_degree")
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, C0)]
    if degree > 0:
        basis += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        basis += [C2[0] * x * y, C2[1] * y * z, C2[2] * (2 * zz - xx - yy), C2[3] * x * z, C2[4] * (xx - yy)]
    if degree > 2:
        basis += [
            C3[0] * y * (3 * xx - yy),
            C3[1] * x * y * z,
            C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            C3[4] * x * (4 * zz - xx - yy),
            C3[5] * z * (xx - yy),
            C3[6] * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim=-1)


def eval_sh(degree: int, coefficients: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Sum of basis times coefficients [N, K, 3], K >= (degree + 1)^2, at unit directions [N, 3] -> [N, 3]."""
    basis = sh_basis(degree, directions)
    return (basis.unsqueeze(-1) * coefficients[:, : basis.shape[-1]]).sum(dim=1)
