# SPDX-License-Identifier: Apache-2.0
"""The views of a training step rendered together, and the gradient of each apart.

The rasterizer renders all views by one call and takes their gradients back by another. Between it and the Gaussians'
parameters every view has a graph of its own, so that a view's gradient can be taken without the others'.

B views, N Gaussians, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from diff_gaussian_rasterization import rasterize_views
from gaussian_renderer import Augmentation, activate, maps_of, raster_settings, rasterizer_inputs
from gaussian_renderer.depth_variance import depth_variance, moment_inputs, moment_settings

if TYPE_CHECKING:
    from arguments import PipelineParams
    from scene.cameras import RCamera
    from scene.gaussian_model import GaussianModel


@dataclass(frozen=True)
class RenderedView:
    """One view of a step. Its graph is cut in two: what was rendered leads back to `leaves`, the screen points [N, 3]
    first, and from the `edges`, one for each other leaf, it leads to the parameters."""

    image: Tensor  # [3, H, W] in [0, 1]
    disparity: Tensor  # [1, H, W] normalised to [0, 1]; upstream calls it depth
    transmittance: Tensor  # [1, H, W]; upstream calls it alpha
    radii_px: Tensor  # [N]
    scales: Tensor  # [N, 3] after augmentation
    z_variance: Tensor | None  # [], HiFA's
    leaves: list[Tensor]
    edges: list[GradientEdge]


def _cut(inputs: dict[str, Tensor], leaves: list[Tensor], edges: list[GradientEdge]) -> dict[str, Tensor]:
    """The rasterizer's inputs by name as leaves, which copy nothing; these and the edges behind them are noted."""
    cut = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    leaves += cut.values()
    edges += map(get_gradient_edge, inputs.values())
    return cut


def render_views(
    views: Sequence[tuple[RCamera, Augmentation]],
    pc: GaussianModel,
    pipe: PipelineParams,
    with_z_variance: bool = False,
) -> list[RenderedView]:
    """Render the views by one call of the rasterizer, and by a second one their z-variances where these are wanted.

    Each view is to the bit what `render` makes of it.
    """
    gaussians = activate(pc)
    no_offset = torch.zeros_like(gaussians.means)
    cuts: list[tuple[list[Tensor], list[GradientEdge]]] = [([no_offset.detach().requires_grad_()], []) for _ in views]
    scales, images, moments = [], [], []
    for (camera, augmentation), cut in zip(views, cuts, strict=True):
        inputs, scales_of_view = rasterizer_inputs(camera, gaussians, pipe, augmentation)
        scales.append(scales_of_view)
        images.append({"means2D": cut[0][0], **_cut(inputs, *cut)})
        if with_z_variance:
            inputs = moment_inputs(camera, gaussians, pipe, scales_of_view)
            moments.append({"means2D": no_offset, **_cut(inputs, *cut)})
    settings = [
        raster_settings(camera, pipe, augmentation, antialiased=pc.antialiased) for camera, augmentation in views
    ]
    rendered = rasterize_views(settings, images)
    z_variances: list[Tensor | None] = [None] * len(views)
    if with_z_variance:
        z_variances = [depth_variance(m) for m, _, _ in rasterize_views(list(map(moment_settings, settings)), moments)]
    return [
        RenderedView(image, *maps_of(camera, depth_transmittance), radii, own_scales, z_variance, *cut)
        for (camera, _), (image, radii, depth_transmittance), own_scales, z_variance, cut in zip(
            views, rendered, scales, z_variances, cuts, strict=True
        )
    ]


MapGradients = Mapping[str, Tensor]
"""Name of a RenderedView's map -> gradients on it in all views: image [B, 3, H, W], disparity and transmittance
[B, 1, H, W]. A map that no term of the loss reads is not among them."""


def _roots(views: Sequence[RenderedView], gradients: MapGradients) -> tuple[list[Tensor], list[Tensor]]:
    """The maps, each with its gradient."""
    maps = [getattr(view, name) for name in gradients for view in views]
    return maps, [one for of_all in gradients.values() for one in of_all]


def backward_to_inputs(
    views: Sequence[RenderedView], gradients: MapGradients, grad_z_variance: Tensor | None
) -> list[list[Tensor]]:
    """Takes the gradients of the maps and that of each z-variance [] back through the rasterizer at once. Returns those
    of each view's leaves."""
    roots, incoming = _roots(views, gradients)
    for view in views:
        if view.z_variance is not None and grad_z_variance is not None:
            roots, incoming = [*roots, view.z_variance], [*incoming, grad_z_variance]
    found = iter(torch.autograd.grad(roots, [leaf for view in views for leaf in view.leaves], incoming))
    return [[next(found) for _ in view.leaves] for view in views]


def backward_to_screen(views: Sequence[RenderedView], gradients: MapGradients) -> list[Tensor]:
    """The gradients of each view's screen points [N, 3] for other ones on the maps, by one more backward pass of the
    rasterizer. `backward_to_inputs` comes after it."""
    roots, incoming = _roots(views, gradients)
    return list(torch.autograd.grad(roots, [view.leaves[0] for view in views], incoming, retain_graph=True))


def mean_smallest(scales: Tensor) -> Tensor:
    """[]: the mean over the Gaussians of the smallest of their scales [N, 3]. Source: PGSR, section 3.2."""
    return scales.amin(dim=1).mean()


SCALE_TERMS: dict[str, Callable[[Tensor], Tensor]] = {"scale": torch.mean, "flatness": mean_smallest}
"""Term of the loss -> its number [] from scales [N, 3] as rendered."""


def backward_to_parameters(
    edges: list[GradientEdge], grad_inputs: list[Tensor], scales: Tensor, grad_terms: Mapping[str, Tensor], last: bool
) -> None:
    """Takes the gradients of what one view's rasterization took, and of SCALE_TERMS by name, on to the parameters.
    After the `last` view the activations that all share are freed."""
    terms = [get_gradient_edge(SCALE_TERMS[name](scales)) for name in grad_terms]
    torch.autograd.backward([*edges, *terms], [*grad_inputs, *grad_terms.values()], retain_graph=not last)
