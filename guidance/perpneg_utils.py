# SPDX-License-Identifier: Apache-2.0
"""Perp-Neg: negative prompts that only act perpendicular to the positive one (Armandpour et al. 2023).

Letters of shapes: B views, C latent channels, h w latent size.
"""

import math

import torch
from torch import Tensor

# Upstream leaves out a negative whose weight is below this in size.
NEGLIGIBLE_WEIGHT = 1e-4
FRONT, SIDE, BACK = 0, 1, 2


def view_weights(
    azimuth_deg: float, negative_w: float, front_decay_factor: float, side_decay_factor: float
) -> tuple[float, tuple[tuple[int, float], tuple[int, float]]]:
    """Position of the view between front (0), side (1) and back (2), and the two negatives (view, weight).

    Front half [-90, 90): negatives are front and side; back half: side and front.  Angles outside [-180, 180) wrap.
    """
    azimuth_deg = (azimuth_deg + 180.0) % 360.0 - 180.0
    if -90 <= azimuth_deg < 90:
        r = 1 - abs(azimuth_deg) / 90
        front = 0.0 if r > 0.8 else negative_w * math.exp(-r * front_decay_factor)
        side = 0.0 if r < 0.2 else negative_w * math.exp(-(1 - r) * side_decay_factor)
        return 1 - r, ((FRONT, front), (SIDE, side))
    r = 1 - (abs(azimuth_deg) - 90) / 90
    side = 0.0 if r > 0.8 else negative_w * math.exp(-r * side_decay_factor) / 2
    return 2 - r, ((SIDE, side), (FRONT, negative_w))


def perpendicular_component(x: Tensor, y: Tensor) -> Tensor:
    """Part of x perpendicular to y per sample: x - <x,y> / max(|y|^2, 1e-6) y; x, y [B,C,h,w]."""
    dims = tuple(range(1, x.ndim))
    scale = (x * y).sum(dims, keepdim=True) / y.square().sum(dims, keepdim=True).clamp(min=1e-6)
    return x - scale * y


def perp_neg_direction(positive: Tensor, negatives: list[tuple[Tensor, Tensor]]) -> Tensor:
    """positive + sum_k w_k * (component of negative_k perpendicular to positive).

    positive and each negative: eps_text - eps_uncond [B,C,h,w]; weights [B].
    """
    direction = positive
    for negative, weights in negatives:
        active = torch.where(weights.abs() < NEGLIGIBLE_WEIGHT, 0.0, weights).to(positive.dtype)
        direction = direction + active.view(-1, 1, 1, 1) * perpendicular_component(negative, positive)
    return direction
