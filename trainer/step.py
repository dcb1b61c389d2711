# SPDX-License-Identifier: Apache-2.0
"""One training step, baseline and CoGrad alike: `compute_gradients`, then `apply_update`.

Upstream's order of random draws is kept: camera and augmentation view by view, then `as_latent`, then what the guidance
draws. Of several processes each draws everything, renders and distils its shard of the views, and continues with the
gradients of all of them.

Letters of shapes: B views, N Gaussians, H x W pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arguments import Config, OptimizationParams, PipelineParams
from cograd import FusionResult, Plan
from cograd.fusion import Flat, Gradient, GradientSum, flat
from gaussian_renderer.views import (
    MapGradients,
    RenderedView,
    backward_to_inputs,
    backward_to_parameters,
    backward_to_screen,
    mean_smallest,
    render_views,
)
from guidance import sd_step
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from guidance.score import Distillation, distill_views
from trainer.densification import densify, optimizer_step, pixel_signs
from trainer.distributed import ALONE, World
from trainer.draws import Draws, draw_views
from trainer.exchange import ViewGradient, gather_gradients, gather_numbers
from trainer.priors import encoder_at
from trainer.run_log import PhaseTimer
from trainer.state import TrainState
from utils.device import threads_for
from utils.general_utils import finite_rows, first_not_finite
from utils.loss_utils import tv_loss
from utils.memory import peak_bytes
from utils.shard import Shard


@dataclass(frozen=True)
class Losses:
    """Terms of the loss, their sum `total`, and what is not finite, of all views."""

    terms: dict[str, float]
    per_view: Tensor  # [B] on the CPU, the guidance's
    t: Tensor  # [B] on the CPU
    fault: str | None


@dataclass(frozen=True)
class StepGradients:
    """A step up to the gradient that the optimizer gets. `rendered` and `distillation` are of this process's shard."""

    iteration: int
    draws: Draws
    rendered: tuple[Tensor, Tensor, Tensor]  # images, disparities, transmittances [., C, H, W]
    distillation: Distillation
    losses: Losses
    views: list[ViewGradient]  # of all B views, before fusion; empty after a fault
    fusion: list[dict[str, Any]]  # FusionResult.record() of each view
    fault: str | None  # what is not finite: the step is skipped
    timer: PhaseTimer
    latents: Tensor | None = None  # [B, C, h, w] of all views, for a law with a predictor

    def record(self, update: Update, points: int) -> dict[str, Any]:
        """The JSON line of this step: losses, timesteps, points, phase times in milliseconds, peak memory."""
        terms = {name: value if math.isfinite(value) else None for name, value in self.losses.terms.items()}
        draws = self.draws
        return {
            "iteration": self.iteration,
            "loss": terms["total"],
            "losses": terms,
            "loss_per_view": self.losses.per_view.tolist() if update.fault is None else None,
            "t": self.losses.t.tolist(),
            "unet_timesteps": self.distillation.unet_timesteps,
            "unet_samples": self.distillation.residual.samples,
            "as_latent": draws.as_latent,
            "warm_up_rate": draws.warm_up_rate,
            "azimuth_deg": draws.azimuth_deg,
            "points": points,
            **({} if draws.use_control is None else {"use_control": draws.use_control}),
            **({} if update.cograd is None else {"cograd": update.cograd}),
            "fault": update.fault,
            "phase_ms": {name: round(ms, 3) for name, ms in self.timer.ms.items()},
            "peak_mb": {name: round(n / 1e6) for name, n in peak_bytes(self.distillation.grad.device).items()},
        }


@dataclass(frozen=True)
class Update:
    """What the update of a step did."""

    fault: str | None
    broken_parameter: str | None = None  # not finite after the update; no later step can repair it
    cograd: dict[str, Any] | None = None  # CoGrad's own record
    last_scene: dict[str, Tensor] | None = None  # the parameters before the densification that left no Gaussian


def training_step(
    state: TrainState, prior: Prior, prompts: PromptEmbeddings, config: Config, world: World = ALONE
) -> tuple[StepGradients, Update]:
    """A whole step, for those who need nothing between its halves."""
    gradients = compute_gradients(state, prior, prompts, config, world)
    return gradients, apply_update(state, gradients, config)


def compute_gradients(
    state: TrainState, prior: Prior, prompts: PromptEmbeddings, config: Config, world: World = ALONE
) -> StepGradients:
    """Runs the step state.iteration + 1 up to its parameter gradients, which are left in `.grad`.

    A loss or gradient that is not finite leaves no gradient and is named in `StepGradients.fault`.
    """
    state.iteration += 1
    timer, shard, opt = PhaseTimer(), world.shard(config.guidance.C_batch_size), config.optimization
    prepare_schedules(state, config)
    draws = draw_views(state, config, timer)  # regions: Eqs. (6), (7); timesteps: Eq. (8)
    with timer("render"):
        with_z_variance = opt.lambda_z_variance > 0
        views = render_views(shard.of(draws.views), state.gaussians, pipeline_of(state, config), with_z_variance)
    with timer("guidance"):
        images, disparities, transmittances = _stacked(views)
        distillation = distill_views(  # Eqs. (5), (9)
            prior,
            images,
            disparities,
            transmittances,
            prompts.conditioning(shard.of(draws.azimuth_deg)),
            state.loss,
            state.streams,
            warm_up_rate=draws.warm_up_rate,
            as_latent=draws.as_latent,
            memory=state.memory,
            ind_t=None if draws.plan is None else _indices_of(prior, shard.of(draws.plan.t)),
            use_control=bool(draws.use_control),
            shard=shard,
            progress=state.iteration / opt.iterations,
            cameras=draws.cameras,
            encode=encoder_at(prior, config, state.iteration),
        )
        g_maps, numbers = image_gradients(distillation, (images, disparities, transmittances), views, opt, shard)
        losses = sum_losses(gather_numbers(numbers, len(state.gaussians.get_xyz), shard, world), opt)
        latents = None
        if state.loss.predictor is not None:
            latents = world.gather(distillation.latents.detach(), shard)
    main, fault = list[ViewGradient](), losses.fault
    fusion = list[dict[str, Any]]()
    if fault is None:
        with timer("backward"):
            signs = pixel_signs(state, opt, (shard.total, *images.shape[2:]))
            own_signs = None if signs is None else shard.of(signs)
            by_view: Iterable[ViewGradient] = view_gradients(state, views, g_maps, opt, shard.total, own_signs)
        if world.size > 1:
            with timer("backward"):
                own = list(by_view)
            with timer("exchange"):
                by_view = gather_gradients(own, shard, world)
        main, total, fusion = fuse_views(state, draws.plan, losses.t, by_view, timer)  # Eq. (10)
        with timer("backward"), threads_for(_parameter_count(state)):
            fault = set_gradient(state, total, main, losses.t)
    stacks = images.detach(), disparities.detach(), transmittances
    return StepGradients(state.iteration, draws, stacks, distillation, losses, main, fusion, fault, timer, latents)


def apply_update(state: TrainState, step: StepGradients, config: Config) -> Update:
    """Observation, densification, opacity reset and the optimizer step of a step whose gradients are ready.

    Kept from upstream because they shaped published results: densification replaces the parameters, so the optimizer
    step of such an iteration has no gradient; the last iteration makes no optimizer step at all.
    """
    opt, plan = config.optimization, step.draws.plan
    state.note_fault(step.fault)
    if step.fault is not None:
        return Update(step.fault)
    record, last_scene = None, None
    if step.latents is not None:
        with step.timer("observe"):
            state.loss.observe(step.latents, step.draws.cameras.mirrored(step.distillation.flip))
    if state.cograd is not None and plan is not None:
        with step.timer("observe"), threads_for(_parameter_count(state)):
            main = [view.g_main for view in step.views]
            losses = step.losses
            observation = state.cograd.observe(state.iteration, plan.regions, losses.t, losses.per_view, main)
            record = state.cograd.record(plan, step.fusion, observation)
    with step.timer("densify"), torch.no_grad():
        if state.iteration < opt.densify_until_iter:
            before = state.gaussians.parameters_in_order()
            densify(state, step.views, config)
            if not len(state.gaussians.get_xyz):
                last_scene = {name: parameter.detach() for name, parameter in before.items()}
    with step.timer("optimizer"), threads_for(_parameter_count(state)):
        if state.iteration < opt.iterations:
            optimizer_step(state, opt)
        state.optimizer.zero_grad(set_to_none=True)
        broken = first_not_finite(state.gaussians.parameters_in_order())
    fault = None if broken is None else f"{broken} is not finite after the update"
    return Update(fault, broken, record, last_scene)


def prepare_schedules(state: TrainState, config: Config) -> None:
    """Learning rates, SH degree (one more every 500 iterations) and camera ranges of state.iteration."""
    gaussians, iteration = state.gaussians, state.iteration
    gaussians.update_learning_rate(iteration)
    gaussians.update_feature_learning_rate(iteration)
    gaussians.update_rotation_learning_rate(iteration)
    gaussians.update_scaling_learning_rate(iteration)
    if iteration % 500 == 0:
        gaussians.oneupSHdegree()
    state.scene.ranges = state.scene.ranges.at_step(iteration, config.optimization, config.cameras)


def pipeline_of(state: TrainState, config: Config) -> PipelineParams:
    """The pipeline's settings, with `debug` from the iteration on that `debug_from` names."""
    if 0 <= config.debug_from < state.iteration:
        return dataclasses.replace(config.pipeline, debug=True)
    return config.pipeline


def _stacked(views: list[RenderedView]) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, H, W], disparities and transmittances [B, 1, H, W], cut off from the renderer's graph."""
    images, disparities, transmittances = (
        torch.stack([getattr(view, name) for view in views]).detach()
        for name in ("image", "disparity", "transmittance")
    )
    return images.requires_grad_(), disparities.requires_grad_(), transmittances


def _indices_of(prior: Prior, t: Tensor) -> Tensor:
    """Schedule indices [B] of timesteps t [B]."""
    return sd_step.indices_of_timesteps(t, prior.num_train_timesteps, len(prior.alphas_cumprod), prior.steps_offset)


def image_gradients(
    distillation: Distillation,
    maps: tuple[Tensor, Tensor, Tensor],
    views: list[RenderedView],
    opt: OptimizationParams,
    shard: Shard,
) -> tuple[MapGradients, dict[str, Tensor]]:
    """The gradients of guidance, total variation and translucency on the shard's images, disparities and
    transmittances; its numbers by name."""
    images, disparities, transmittances = maps
    distillation.backward()
    with torch.set_grad_enabled(opt.lambda_tv > 0):
        tv_rgb, tv_depth = tv_loss(images), tv_loss(disparities)
    if opt.lambda_tv > 0:
        (opt.lambda_tv * len(shard) / shard.total * (tv_rgb + tv_depth)).backward()
    gradients = {"image": torch.zeros_like(images) if images.grad is None else images.grad}
    if disparities.grad is not None:
        gradients["disparity"] = disparities.grad
    further = {}
    if opt.lambda_translucency > 0:
        further["translucency"] = (transmittances * (1 - transmittances)).flatten(1).mean(dim=1)
        weight = opt.lambda_translucency / shard.total / transmittances[0].numel()
        gradients["transmittance"] = weight * (1 - 2 * transmittances)
    if opt.lambda_flatness > 0:
        further["flatness"] = torch.stack([mean_smallest(view.scales.detach()) for view in views])
    spreads = [view.z_variance.detach() for view in views if view.z_variance is not None]
    return gradients, {
        **({"z_variance": torch.stack(spreads)} if spreads else {}),
        **further,
        "guidance": distillation.loss_per_view,
        "tv_rgb": tv_rgb.expand(len(shard)),
        "tv_depth": tv_depth.expand(len(shard)),
        "scale": torch.stack([view.scales.detach().mean() for view in views]),
        "t": distillation.t,
        "finite_guidance": distillation.finite_per_view,
        "finite_image": torch.stack([finite_rows(g) for g in gradients.values()]).all(dim=0),
    }


def sum_losses(numbers: dict[str, Tensor], opt: OptimizationParams) -> Losses:
    """Terms of the loss, and the first that is not finite with its views, from numbers [B] of all views."""
    t = numbers["t"].long()
    further = {"z_variance": opt.lambda_z_variance, "flatness": opt.lambda_flatness}
    further["translucency"] = opt.lambda_translucency
    names = ("guidance", "tv_rgb", "tv_depth", "scale", *further)
    terms = {name: float(numbers[name].mean()) for name in names if name in numbers}
    weighted = opt.lambda_tv * (terms["tv_rgb"] + terms["tv_depth"]) + opt.lambda_scale * terms["scale"]
    weighted += sum(weight * terms.get(name, 0.0) for name, weight in further.items())
    terms["total"] = terms["guidance"] + weighted
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    bad += [] if bool((numbers["finite_guidance"] > 0).all()) else ["guidance gradient"]
    bad_views = (numbers["finite_image"] <= 0).nonzero().flatten().tolist()
    fault = None
    if bad or bad_views:
        fault = f"{(bad or ['image gradient'])[0]} is not finite (views {bad_views or 'all'}, timesteps {t.tolist()})"
    return Losses(terms, numbers["guidance"], t, fault)


def view_gradients(
    state: TrainState,
    views: list[RenderedView],
    g_maps: MapGradients,
    opt: OptimizationParams,
    total: int,
    signs: Tensor | None = None,
) -> Iterator[ViewGradient]:
    """Takes the gradients of the views' maps, and each view's share of the terms of scales and z-variance of `total`
    views, back through the renderer: the rasterizer for all at once, the rest view by view. Empties `views`, for their
    images keep what was rendered in memory. With `signs` [B, 1, H, W] densification reads the gradients of the screen
    positions that these signs on the pixels give.

    DECISION: Eq. (9) names the SDS gradient; g_main is the gradient of the view's whole loss, its share of the total
    variation and of the scales included, as one backward pass leaves it.
    """
    device = views[0].scales.device
    weights = {"scale": opt.lambda_scale, "flatness": opt.lambda_flatness, "z_variance": opt.lambda_z_variance}
    g_terms = {  # torch.full: a tensor from a number would wait
        name: torch.full((), weight / total, device=device) for name, weight in weights.items() if weight
    }
    signed = None if signs is None else backward_to_screen(views, {name: g * signs for name, g in g_maps.items()})
    to_inputs = backward_to_inputs(views, g_maps, g_terms.pop("z_variance", None))
    behind = [(view.edges, view.scales, view.radii_px) for view in views]
    views.clear()
    while behind:
        (edges, scales, radii_px), (g_screen, *g_inputs) = behind.pop(0), to_inputs.pop(0)
        backward_to_parameters(edges, g_inputs, scales, g_terms, last=not behind)
        of_densifier = g_screen if signed is None else signed.pop(0)
        yield ViewGradient(pop_gradient(state), of_densifier[:, :2], radii_px)


def fuse_views(
    state: TrainState, plan: Plan | None, t: Tensor, views: Iterable[ViewGradient], timer: PhaseTimer
) -> tuple[list[ViewGradient], Gradient, list[dict[str, Any]]]:
    """The views' gradients as the bank keeps them, their sum once fused with neighbouring regions', Eq. (10), and what
    FusionResult records of each. Each gradient is used as soon as `views` has made it, while caches still have it."""
    cograd, step, count = state.cograd, state.iteration, _parameter_count(state)
    kept, total, fusion = list[ViewGradient](), GradientSum(), list[dict[str, Any]]()
    as_flat = cograd is not None and plan is not None and cograd.keeps_gradients(step)
    regions = [None] * len(t) if plan is None else plan.regions.tolist()
    for view, region, t_view in zip(_timed(views, timer), regions, t.tolist(), strict=True):
        fused = FusionResult(view.g_main)
        if cograd is not None and region is not None:
            with timer("fuse"), threads_for(count):
                if as_flat:  # once, for fusing and for the bank
                    view = dataclasses.replace(view, g_main=flat(view.g_main))
                fused = cograd.fuse(step, region, t_view, view.g_main)
                fusion.append(fused.record())
        with timer("backward"), threads_for(count):  # the baseline has this sum too
            total.add(fused.g_main, fused.kept)
        if fused.g_aux is not None:
            with timer("fuse"), threads_for(count):
                total.add(fused.g_aux, fused.weight)
        del fused  # only the sum stays in memory
        kept.append(view)
    assert total.total is not None, "a step has a view"
    return kept, total.total, fusion


def _timed(views: Iterable[ViewGradient], timer: PhaseTimer) -> Iterator[ViewGradient]:
    """The same, what it takes to make them counted as `backward`."""
    waiting = iter(views)
    while True:
        with timer("backward"):
            view = next(waiting, None)
        if view is None:
            return
        yield view


def pop_gradient(state: TrainState) -> Gradient:
    """The gradient that a backward pass left, by parameter name, taken away from the parameters."""
    parameters = state.gaussians.parameters_in_order()
    gradient = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return gradient


def set_gradient(state: TrainState, gradient: Gradient, views: list[ViewGradient], t: Tensor) -> str | None:
    """Gives the step's gradient to the optimizer, unless it is not finite; then names the parameter, and the view."""
    bad = first_not_finite(gradient)
    if bad is None:
        for name, parameter in state.gaussians.parameters_in_order().items():
            parameter.grad = gradient.get(name)
        for view in views:  # of a sum that is finite every part is
            if isinstance(view.g_main, Flat):
                view.g_main.is_finite = True
        return None
    for v, view in enumerate(views):  # fusing spreads one parameter's NaN over all of them
        if (own := first_not_finite(view.g_main)) is not None:
            return f"the gradient of {own} is not finite (view {v}, timestep {int(t[v])})"
    return f"the sum of all views' gradients of {bad} is not finite"


def _parameter_count(state: TrainState) -> int:
    return sum(p.numel() for p in state.gaussians.parameters_in_order().values())
