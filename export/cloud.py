# SPDX-License-Identifier: Apache-2.0
"""A cloud of Gaussians as another program wants it: rotated, padded. Training's world: z up, the front looks along +y.

N Gaussians, K = (degree + 1)^2 SH coefficients a channel. Rotations are matrices [3, 3]: new = TURN @ old.
"""

import torch

from scene.gaussian_model import GaussianModel
from utils.sh_utils import sh_basis

Y_DOWN = torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])
"""To x right, y down, z forward, the field's PLY: the front looks back at a camera that looks along +z."""
ROUNDING = 1e-9
Y_UP = torch.tensor([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
"""To x right, y up, z back, as spz, glTF and three.js have it: the front looks along +z."""
UP: dict[str, torch.Tensor] = {"y": Y_UP, "-y": Y_DOWN, "z": torch.eye(3)}
"""--up -> the rotation to it."""


def rotated(gaussians: GaussianModel, turn: torch.Tensor) -> GaussianModel:
    """A copy, rotated about the origin as a rigid body, with unit quaternions."""
    raw = {name: value.detach() for name, value in gaussians.parameters_in_order().items()}
    degree = gaussians.max_sh_degree
    features = torch.einsum("jk,nkc->njc", sh_rotation(degree, turn), gaussians.get_features.detach())
    return gaussians.with_parameters(
        {
            **raw,
            "xyz": raw["xyz"] @ turn.T,
            "f_dc": features[:, :1],
            "f_rest": features[:, 1:],
            "rotation": quaternion_product(quaternion_of(turn), gaussians.get_rotation.detach()),
        }
    )


def check_padding(gaussians: GaussianModel, sh_degree: int) -> None:
    """Raises ValueError for an SH degree that `padded` cannot give the cloud."""
    own = gaussians.max_sh_degree
    if not own <= sh_degree <= 3:
        raise ValueError(f"the cloud has SH degree {own} and cannot be padded to {sh_degree}; give {own} to 3.")


def padded(gaussians: GaussianModel, sh_degree: int) -> GaussianModel:
    """A copy with zeros for the SH coefficients up to `sh_degree`. Raises ValueError where the cloud has more."""
    check_padding(gaussians, sh_degree)
    own = gaussians.max_sh_degree
    raw = {name: value.detach() for name, value in gaussians.parameters_in_order().items()}
    missing = (sh_degree + 1) ** 2 - (own + 1) ** 2
    rest = torch.nn.functional.pad(raw["f_rest"], (0, 0, 0, missing))
    return gaussians.with_parameters({**raw, "f_rest": rest})


def sh_rotation(degree: int, turn: torch.Tensor) -> torch.Tensor:
    """[K, K]: coefficients times this look along TURN @ d as the old ones did along d.

    The basis of a degree spans a space that rotations leave alone, so the matrix follows from any 64 directions, and
    what it has between degrees is rounding: a large coefficient would carry that into all others.
    """
    directions = torch.nn.functional.normalize(
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    old, new = (sh_basis(degree, d) for d in (directions @ turn.double(), directions))  # turn^T d, row by row
    matrix = torch.linalg.lstsq(new, old).solution
    return torch.where(matrix.abs() < ROUNDING, 0.0, matrix).float()


def quaternion_of(turn: torch.Tensor) -> torch.Tensor:
    """Unit quaternion (w, x, y, z) of a rotation matrix: the eigenvector of largest eigenvalue (Bar-Itzhack 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = turn.double().tolist()
    lower = torch.tensor(
        [[a + e + i, 0, 0, 0], [h - f, a - e - i, 0, 0], [c - g, b + d, e - a - i, 0], [d - b, c + g, f + h, i - a - e]]
    )
    return torch.linalg.eigh(lower).eigenvectors[:, -1].float()


def quaternion_product(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """First q, then p: (w, x, y, z) [4] times [N, 4] -> [N, 4]."""
    w, vector = q[:, :1], q[:, 1:]
    real = p[0] * w - (vector * p[1:]).sum(dim=1, keepdim=True)
    return torch.cat((real, p[0] * vector + w * p[1:] + torch.linalg.cross(p[1:].expand_as(vector), vector)), dim=1)
