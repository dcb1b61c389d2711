# SPDX-License-Identifier: Apache-2.0
"""The image that is saved to train_process/: inputs and results of a step's guidance.

Rows are views; columns, left to right: colour, disparity, transmittance, saturation, latents, size of the gradient,
clean image by the guided prediction, clean image by the target.
Letters of shapes: B views, C latent channels, h w latent size, H W image.
"""

import torch
from torch import Tensor
from torch.nn import functional

from guidance.prior import Prior
from guidance.score import Distillation, flipped

COLUMNS = ("rgb", "depth", "alpha", "saturation", "latents", "gradient", "x0_guided", "x0_target")
MARGIN_PX = 2


@torch.no_grad()
def guidance_panel(
    prior: Prior, distillation: Distillation, pred_rgb: Tensor, pred_depth: Tensor, pred_alpha: Tensor
) -> Tensor:
    """The panel [3, B*(H+2)+2, 8*(W+2)+2] in [0,1] for rendered views [B,3,H,W], [B,1,H,W], [B,1,H,W].

    Non-finite numbers are shown as 0: a panel must be writable when a step went wrong.
    """
    size = tuple(pred_rgb.shape[2:])
    latents = flipped(distillation.latents.detach(), distillation.flip)
    gradient = flipped(distillation.grad, distillation.flip).norm(dim=1, keepdim=True)  # [B,1,h,w]
    previews = distillation.x0_preview(prior)
    tiles = (
        pred_rgb,
        pred_depth,
        pred_alpha,
        saturation(pred_rgb),
        stretched(first_three(latents)),
        gradient / gradient.nan_to_num(0, 0, 0).amax((1, 2, 3), keepdim=True).clamp(min=1e-12),
        previews["guided"],
        previews["target"],
    )
    return grid([_as_colour(tile, size) for tile in tiles])


def saturation(rgb: Tensor) -> Tensor:
    """HSV saturation [B,1,H,W] of colours [B,3,H,W]: (max - min) / max, 0 for black."""
    high, low = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    return (high - low) / high.clamp(min=1e-6)


def first_three(latents: Tensor) -> Tensor:
    """The first three of C channels, the last one repeated where there are fewer: [B,3,h,w]."""
    last = latents[:, -1:]
    return torch.cat([latents, last, last], dim=1)[:, :3]


def stretched(values: Tensor) -> Tensor:
    """Each view's values [B,...] mapped linearly onto [0,1]."""
    values = values.nan_to_num(0, 0, 0)
    dims = tuple(range(1, values.ndim))
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-12)


def grid(columns: list[Tensor]) -> Tensor:
    """Columns of equally sized images [B,3,H,W] as one image on white, with a margin round each."""
    rows = torch.stack(columns, dim=1)  # [B,columns,3,H,W]
    rows = functional.pad(rows, (MARGIN_PX, 0, MARGIN_PX, 0), value=1.0)
    panel = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return functional.pad(panel, (0, MARGIN_PX, 0, MARGIN_PX), value=1.0)


def _as_colour(tile: Tensor, size: tuple[int, ...]) -> Tensor:
    """A tile [B,1 or 3,*,*] as a finite image [B,3,H,W] in [0,1]."""
    tile = functional.interpolate(tile.detach().float(), size=size, mode="nearest")
    return tile.nan_to_num(0, 0, 0).clamp(0, 1).expand(-1, 3, -1, -1)
