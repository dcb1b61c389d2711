# SPDX-License-Identifier: Apache-2.0
"""Regularisers of the image loss. B views, C channels, H x W pixels."""

from torch import Tensor


def tv_loss(x: Tensor) -> Tensor:
    """Total variation of x [B, C, H, W]: 2 (sum dh^2 / count_h + sum dw^2 / count_w) / B, a scalar.

    A side of one pixel has no differences and contributes nothing.
    """
    dh, dw = x[:, :, 1:, :] - x[:, :, :-1, :], x[:, :, :, 1:] - x[:, :, :, :-1]
    per_view = [d.flatten() @ d.flatten() / max(d[0].numel(), 1) for d in (dh, dw)]
    return 2 * (per_view[0] + per_view[1]) / x.shape[0]
