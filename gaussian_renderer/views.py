# SPDX-License-Identifier: Apache-2.0
"""The views of a training step rendered together, and the gradient of each apart.

The rasterizer renders all views by one call and takes their gradients back by another. Between it and the Gaussians'
parameters every view has a graph of its own, so that a view's gradient can be taken without the others'.

B views, N Gaussians, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from diff_gaussian_rasterization import rasterize_views
from gaussian_renderer import Augmentation, activate, maps_of, raster_settings, rasterizer_inputs
from gaussian_renderer.depth_variance import depth_variance, moment_inputs, moment_settings
from gaussian_renderer.surface_terms import depth_normal_error, normal_inputs, normal_settings, translucency

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
    terms: dict[str, Tensor]  # [] each, further terms of the loss by name
    leaves: list[Tensor]
    edges: list[GradientEdge]


def _cut(inputs: dict[str, Tensor], leaves: list[Tensor], edges: list[GradientEdge]) -> dict[str, Tensor]:
    """The rasterizer's inputs by name as leaves, which copy nothing; these and the edges behind them are noted."""
    cut = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    leaves += cut.values()
    edges += map(get_gradient_edge, inputs.values())
    return cut


RASTERIZED: dict[str, tuple[Any, Any, Any]] = {
    "z_variance": (moment_settings, moment_inputs, lambda camera, image, _: depth_variance(image)),
    "normals": (normal_settings, normal_inputs, depth_normal_error),
}
"""Terms of a view that take a rasterization of their own: its settings, its inputs, and the term of its outputs."""


def render_views(
    views: Sequence[tuple[RCamera, Augmentation]],
    pc: GaussianModel,
    pipe: PipelineParams,
    terms: Collection[str] = (),
) -> list[RenderedView]:
    """Render the views by one call of the rasterizer, and by one more for each of `terms` that is in RASTERIZED.

    Each view is to the bit what `render` makes of it.
    """
    gaussians = activate(pc)
    no_offset = torch.zeros_like(gaussians.means)
    cuts: list[tuple[list[Tensor], list[GradientEdge]]] = [([no_offset.detach().requires_grad_()], []) for _ in views]
    further = [name for name in RASTERIZED if name in terms]
    scales, images = [], []
    inputs_of: dict[str, list[dict[str, Tensor]]] = {name: [] for name in further}
    for (camera, augmentation), cut in zip(views, cuts, strict=True):
        inputs, scales_of_view = rasterizer_inputs(camera, gaussians, pipe, augmentation)
        scales.append(scales_of_view)
        images.append({"means2D": cut[0][0], **_cut(inputs, *cut)})
        for name in further:
            inputs = RASTERIZED[name][1](camera, gaussians, pipe, scales_of_view)
            inputs_of[name].append({"means2D": no_offset, **_cut(inputs, *cut)})
    settings = [raster_settings(camera, pipe, augmentation) for camera, augmentation in views]
    rendered = [
        RenderedView(image, *maps_of(camera, depth_transmittance), radii, own_scales, {}, *cut)
        for (camera, _), (image, radii, depth_transmittance), own_scales, cut in zip(
            views, rasterize_views(settings, images), scales, cuts, strict=True
        )
    ]
    for name in further:
        of_settings, _, of_outputs = RASTERIZED[name]
        outputs = rasterize_views(list(map(of_settings, settings)), inputs_of[name])
        for view, (camera, _), (image, _, depth_transmittance) in zip(rendered, views, outputs, strict=True):
            view.terms[name] = of_outputs(camera, image, depth_transmittance)
    if "translucency" in terms:
        for view in rendered:
            view.terms["translucency"] = translucency(view.transmittance)
    return rendered


def backward_to_inputs(
    views: Sequence[RenderedView], grad_images: Tensor, grad_disparities: Tensor, grad_terms: Mapping[str, Tensor]
) -> list[list[Tensor]]:
    """Takes the gradients of all images [B, 3, H, W], disparities [B, 1, H, W] and terms [] back through the
    rasterizer at once. Returns those of each view's leaves."""
    names = [name for view in views[:1] for name in view.terms]
    roots = [*(view.image for view in views), *(view.disparity for view in views)]
    roots += [view.terms[name] for name in names for view in views]
    incoming = [*grad_images, *grad_disparities, *(grad_terms[name] for name in names for _ in views)]
    gradients = iter(torch.autograd.grad(roots, [leaf for view in views for leaf in view.leaves], incoming))
    return [[next(gradients) for _ in view.leaves] for view in views]


def backward_to_screen(views: Sequence[RenderedView], grad_images: Tensor, grad_disparities: Tensor) -> list[Tensor]:
    """The gradients of each view's screen points [N, 3] for other ones on all images [B, 3, H, W] and disparities
    [B, 1, H, W], by one more backward pass of the rasterizer. `backward_to_inputs` comes after it."""
    roots = [*(view.image for view in views), *(view.disparity for view in views)]
    incoming = [*grad_images, *grad_disparities]
    return list(torch.autograd.grad(roots, [view.leaves[0] for view in views], incoming, retain_graph=True))


def backward_to_parameters(
    edges: list[GradientEdge], grad_inputs: list[Tensor], scales: Tensor, grad_scales: Sequence[Tensor], last: bool
) -> None:
    """Takes the gradients of what one view's rasterization took, of the mean of its scales and, where a second one is
    given, of the mean of each Gaussian's smallest scale, on to the parameters. After the `last` view the activations
    that all share are freed."""
    means = [scales.mean(), *([scales.amin(dim=1).mean()] if len(grad_scales) > 1 else [])]
    roots = [*edges, *map(get_gradient_edge, means)]
    torch.autograd.backward(roots, [*grad_inputs, *grad_scales], retain_graph=not last)
