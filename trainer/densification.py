# SPDX-License-Identifier: Apache-2.0
"""What a step does about the number of Gaussians, by OptimizationParams.densifier; docs/densification.md compares them.

B views, N Gaussians, H x W pixels.
"""

import torch
from torch import Tensor

from arguments import Config, OptimizationParams
from scene.densify import IndexMap
from scene.relocation import add_opacity_term, add_position_noise, relocate_and_grow
from trainer.exchange import ViewGradient
from trainer.state import TrainState
from utils.device import threads_for

MIN_OPACITY = 0.005
MAX_SCREEN_PX = 20


def pixel_signs(state: TrainState, opt: OptimizationParams, shape: tuple[int, int, int]) -> Tensor | None:
    """A random sign a pixel [B, 1, H, W] for `shape` (B, H, W); None where no densification will read its gradients.

    The rasterizer returns each Gaussian's screen-space gradient summed over pixels, in which the sides of a Gaussian
    cancel. With independent signs s_p the mean square of sum_p s_p g_p is sum_p g_p^2, where nothing cancels.

    DECISION: densifier absgrad estimates the root of the sum of squares by one draw a view. AbsGS sums absolute
    values, which only the rasterizer's kernels could; of n pixels with equal gradients that is sqrt(n) times as much.
    """
    due = -(-max(state.iteration, opt.densify_from_iter, 1) // opt.densification_interval) * opt.densification_interval
    if opt.densifier != "absgrad" or due >= opt.densify_until_iter or due > opt.iterations:
        return None
    b, h, w = shape
    generator, device = state.streams.torch, state.streams.device
    return torch.randint(0, 2, (b, 1, h, w), generator=generator, device=device).float() * 2 - 1


def densify(state: TrainState, views: list[ViewGradient], config: Config) -> None:
    """Statistics, then the densifier and the opacity reset when due.

    Kept from upstream: the baseline's statistics are those of the batch's last view only.

    DECISION: with CoGrad on, or another densifier than inria, densification statistics are those of every view, from
    its gradient before it is fused.
    """
    opt, gaussians, iteration = config.optimization, state.gaussians, state.iteration
    if opt.densifier != "mcmc":
        for view in views if state.cograd or opt.densifier != "inria" else views[-1:]:
            seen = view.radii_px > 0
            gaussians.max_radii2D = torch.maximum(gaussians.max_radii2D, view.radii_px.float())  # 0 where not seen
            gaussians.add_densification_stats(view.ndc, seen)
    if iteration >= opt.densify_from_iter and iteration % opt.densification_interval == 0:
        index_map = _changed(state, opt)
        if state.cograd is not None:
            with threads_for(sum(p.numel() for p in gaussians.parameters_in_order().values())):
                state.cograd.remap_rows(index_map)
    if opt.densifier != "mcmc" and iteration % opt.opacity_reset_interval == 0:
        gaussians.reset_opacity()


def _changed(state: TrainState, opt: OptimizationParams) -> IndexMap:
    """Adds and removes Gaussians; where each came from."""
    if opt.densifier == "mcmc":
        return relocate_and_grow(state.gaussians, opt.max_points, state.streams)
    return state.gaussians.densify_and_prune(
        opt.densify_grad_threshold,
        MIN_OPACITY,
        state.scene.cameras_extent,
        MAX_SCREEN_PX if state.iteration > opt.opacity_reset_interval else None,
        state.streams,
        max_points=None if opt.densifier == "inria" else opt.max_points,
        least_ratio=opt.cadam_ratio if opt.densifier == "cadam" else 0.0,
    )


def optimizer_step(state: TrainState, opt: OptimizationParams) -> None:
    """The optimizer's step; with 3DGS-MCMC's opacity term in its gradient and noise on the positions after it.

    DECISION: 3DGS-MCMC's opacity term is of no view: it is added once a step to what the optimizer gets, is neither
    fused nor stored, and the log's loss is without it. Its scale term is lambda_scale.
    """
    gaussians, is_mcmc = state.gaussians, opt.densifier == "mcmc"
    if is_mcmc:
        add_opacity_term(gaussians, opt.mcmc_opacity)
    has_gradient = gaussians.get_xyz.grad is not None
    state.optimizer.step()
    if has_gradient:
        gaussians.steps_since_added += 1
    if is_mcmc:
        add_position_noise(gaussians, gaussians.update_learning_rate(state.iteration), opt.mcmc_noise, state.streams)
