# SPDX-License-Identifier: Apache-2.0
"""The CPU backend's autograd function, for one view or for several side by side.

Letters: B views, N Gaussians, H W image.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from . import _abi


class Rasterize(torch.autograd.Function):
    """Forward and backward of the views in the tuple `settings`; `arrays` are those of _abi.INPUT_ARRAYS view by view.

    Returns colour, radii and depth_alpha view by view. `counts` receives n_dropped, n_pairs and state_bytes.
    """

    @staticmethod
    def forward(
        ctx: Any, settings: Any, counts: dict[str, Any], *arrays: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        views = _abi.split(arrays)
        outputs = [_abi.new_outputs(s, view) for s, view in zip(settings, views, strict=True)]
        images, ctx.states = _abi.images(outputs), _abi.States(len(views))
        scenes = _abi.scenes(settings, views)
        _abi.check(_abi.LIBRARY.dgr_cpu_forward(len(views), scenes, images, ctx.states.handles))
        counts.update({k: sum(getattr(i, k) for i in images) for k in ("n_dropped", "n_pairs", "state_bytes")})
        _abi.save(ctx, settings, views)
        ctx.mark_non_differentiable(*[radii for _, radii, _ in outputs])
        return tuple(x for view in outputs for x in view)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: torch.Tensor | None) -> tuple[Any, ...]:
        scenes = _abi.scenes(ctx.settings, _abi.split(ctx.saved_tensors))
        structs, outgoing, _kept = _abi.gradients(ctx, incoming)
        _abi.check(_abi.LIBRARY.dgr_cpu_backward(len(scenes), scenes, ctx.states.handles, structs))
        return None, None, *outgoing
