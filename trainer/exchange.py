# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run exchange in a step: a few numbers a view, then the view's gradient.

Afterwards every process holds what a process alone would, and fuses, adds up and densifies as that one does, in the
views' order, so that all keep the same Gaussians and the same bank. A view's gradient is 68 bytes a Gaussian (SH degree
0). An all-reduced sum would be less for the baseline from three views on; but the bank needs each g_main on every
process, or else up to six neighbours' gradients would have to be fetched for each view.

B views of a step, N Gaussians.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cograd.fusion import Flat, Gradient, flat
from trainer.distributed import World
from utils.shard import Shard


@dataclass(frozen=True)
class ViewGradient:
    """What a view's backward pass gives: g_main, and what densification reads."""

    g_main: Gradient
    ndc: Tensor  # [N, 2], gradient of the projected positions; densifier absgrad: with a random sign a pixel
    radii_px: Tensor  # [N], 0 where the view does not see the Gaussian


def gather_numbers(columns: dict[str, Tensor], points: int, shard: Shard, world: World) -> dict[str, Tensor]:
    """Columns [len(shard)] of numbers as those of all views [B], in float64 on the CPU; waits for the device once.

    Raises RuntimeError when the processes' numbers of Gaussians differ.
    """
    count = torch.full((len(shard), 1), float(points), dtype=torch.float64)
    table = torch.stack([column.detach().double() for column in columns.values()], dim=1).cpu()
    every = world.gather(torch.cat([table, count], dim=1), shard)
    counts = sorted({int(n) for n in every[:, -1].tolist()})
    if len(counts) > 1:
        raise RuntimeError(
            f"the processes of this run are out of step, they hold {' and '.join(map(str, counts))} Gaussians; "
            "use GPUs of one kind and the same versions everywhere, and start from the last checkpoint"
        )
    return dict(zip(columns, every.unbind(dim=1)))


def gather_gradients(own: list[ViewGradient], shard: Shard, world: World) -> list[ViewGradient]:
    """The gradients of every view, from those of each process's shard."""
    shapes, n = {name: tuple(g.shape) for name, g in own[0].g_main.items()}, len(own[0].radii_px)
    rows = world.gather(torch.stack([_packed(view) for view in own]), shard)  # [B, D + 3N]
    parts = (row.split([len(row) - 3 * n, 2 * n, n]) for row in rows)
    return [ViewGradient(Flat(main, shapes), ndc.view(n, 2), radii_px) for main, ndc, radii_px in parts]


def _packed(view: ViewGradient) -> Tensor:
    return torch.cat([flat(view.g_main).vector, view.ndc.reshape(-1), view.radii_px.to(view.ndc.dtype)])
