# SPDX-License-Identifier: Apache-2.0
"""The CPU backend's autograd function, for one view or for several side by side.

Letters: B views, N Gaussians, H W image.
"""

import ctypes
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from . import _abi

PER_GAUSSIAN = _abi.SCENE_ARRAYS[:7]  # the others belong to the view


def _of_view(name: str, array: torch.Tensor | None, n: int, v: int) -> int | None:
    """Address of an array's part for view v."""
    if array is None:
        return None
    return (array if _abi.shared_by_views(name, array.shape, n) else array[v]).data_ptr()


def _scenes(settings: tuple[Any, ...], arrays: dict[str, torch.Tensor | None]) -> ctypes.Array:
    means, shs = arrays["means"], arrays["shs"]
    assert means is not None
    n = means.shape[-2]
    scenes = [
        _abi.Scene(
            n, 0 if shs is None else shs.shape[-2], s.sh_degree, s.image_width, s.image_height, s.tanfovx, s.tanfovy,
            s.scale_modifier, torch.get_num_threads(), _abi.DEPTH_Z_GRADIENT if s.depth_z_gradient else 0,
            *[_of_view(name, arrays[name], n, v) for name in PER_GAUSSIAN],
            *map(_abi.address, (s.viewmatrix, s.projmatrix, s.campos, s.bg)),
        )
        for v, s in enumerate(settings)
    ]  # fmt: skip
    return (_abi.Scene * len(scenes))(*scenes)


class Rasterize(torch.autograd.Function):
    """Forward and backward of the views in the tuple `settings`; `lead` is () for one view, (B,) for a batch.

    Arrays are [N, ...] for all views or [B, N, ...]. Outputs are [*lead, ...]. `counts` receives n_dropped, n_pairs and
    state_bytes.
    """

    @staticmethod
    def forward(ctx, means, means2d, shs, colors, opacities, scales, rotations, cov3, settings, lead, counts):
        n_views, h, w = len(settings), settings[0].image_height, settings[0].image_width
        arrays = dict(zip(PER_GAUSSIAN, (means, shs, colors, opacities, scales, rotations, cov3)))
        outputs = (means.new_empty(n_views, 3, h, w), means.new_empty(n_views, means.shape[-2], dtype=torch.int32),
                   means.new_empty(n_views, 2, h, w))  # fmt: skip
        images = (_abi.Images * n_views)(*[_abi.Images(*[x[v].data_ptr() for x in outputs]) for v in range(n_views)])
        ctx.states = _abi.States(n_views)
        scenes = _scenes(settings, arrays)
        _abi.check(_abi.LIBRARY.dgr_cpu_forward(n_views, scenes, images, ctx.states.handles))
        counts.update({k: sum(getattr(i, k) for i in images) for k in ("n_dropped", "n_pairs", "state_bytes")})
        ctx.settings = settings
        ctx.means2d_shape = means2d.shape
        ctx.save_for_backward(*arrays.values())
        ctx.set_materialize_grads(False)
        color, radii, depth_alpha = (x if lead else x[0] for x in outputs)
        ctx.mark_non_differentiable(radii)
        return color, radii, depth_alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_color, _grad_radii, grad_depth_alpha):
        arrays, settings = dict(zip(PER_GAUSSIAN, ctx.saved_tensors)), ctx.settings
        n, n_views = arrays["means"].shape[-2], len(settings)
        images = [None if g is None else g.contiguous() for g in (grad_color, grad_depth_alpha)]
        incoming = [None if g is None else g.view(n_views, -1, *g.shape[-2:]) for g in images]
        shapes = {name: array.shape for name, array in arrays.items() if array is not None}
        shapes["means2d"] = ctx.means2d_shape
        outgoing = {}
        for name, shape in shapes.items():  # every view's own gradient
            own = (n_views, *shape) if _abi.shared_by_views(name, shape, n) else shape
            outgoing[name] = arrays["means"].new_empty(own)
        per_view = [*incoming, *map(outgoing.get, _abi.GRADIENT_ARRAYS)]
        gradients = (_abi.Gradients * n_views)()
        for v in range(n_views):
            gradients[v] = _abi.Gradients(*[None if g is None else g[v].data_ptr() for g in per_view])
        _abi.check(_abi.LIBRARY.dgr_cpu_backward(n_views, _scenes(settings, arrays), ctx.states.handles, gradients))
        return *[_abi.as_input(outgoing.get(k), shapes.get(k)) for k in _abi.GRADIENT_ARRAYS], None, None, None
