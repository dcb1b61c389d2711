# SPDX-License-Identifier: Apache-2.0
"""One training step, baseline and CoGrad alike: gradients first, outputs may be written, then the update.

Several processes make it together: each draws everything, renders and distils its shard of the views, and goes on with
the gradients of all of them.

B views, N Gaussians, H x W pixels, C x h x w latents. Upstream's order is kept: cameras and augmentations are drawn
view by view, then `as_latent`, then what the guidance draws; densification comes after backward and before the
optimizer step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from arguments import Config, OptimizationParams
from cograd import Plan
from cograd.fusion import Gradient, added, flat
from gaussian_renderer import Augmentation, draw_augmentation, render
from guidance import sd_step
from guidance.prompts import PromptBook
from guidance.score import Distillation, Prior, distill
from scene.cameras import RCamera
from trainer.distributed import ALONE, World
from trainer.exchange import OnScreen, gather_gradients, gather_numbers
from trainer.outputs import plain_background
from trainer.run_log import PhaseTimer
from trainer.state import TrainState
from utils.device import threads_for
from utils.general_utils import first_not_finite
from utils.loss_utils import tv_loss
from utils.memory import peak_bytes
from utils.shard import Shard


@dataclass
class RenderedView:
    """One view of a step, with the graph that leads back to the Gaussians."""

    camera: RCamera
    augmentation: Augmentation
    image: Tensor  # [3, H, W] in [0, 1]
    disparity: Tensor  # [1, H, W] normalised to [0, 1]; upstream calls it depth
    transmittance: Tensor  # [1, H, W]; upstream calls it alpha
    screen_points: Tensor  # [N, 3], whose gradient is the NDC gradient
    visible: Tensor  # [N] bool
    radii_px: Tensor  # [N]
    scales: Tensor  # [N, 3] after augmentation


@dataclass
class StepReport:
    """What one step did; everything the log, the outputs and the tests want to know of it.

    `plan`, the views' `main_gradients` and CoGrad's own record are there with CoGrad on. `views` and `distillation` are
    those of this process's shard, all the rest is of all views.
    """

    iteration: int
    views: list[RenderedView]
    shard: Shard
    azimuth_deg: list[float]
    as_latent: bool
    warm_up_rate: float
    timer: PhaseTimer
    distillation: Distillation = field(init=False)
    losses: dict[str, float] = field(init=False)
    loss_per_view: Tensor = field(init=False)  # [B] on the CPU
    t: Tensor = field(init=False)  # [B] on the CPU
    on_screen: list[OnScreen] = field(default_factory=list)
    fault: str | None = None
    broken_parameter: str | None = None  # after the update; no later step can heal it
    plan: Plan | None = None
    use_control: bool | None = None  # None: the run has no ControlNet
    cograd: dict[str, Any] | None = None
    main_gradients: list[Gradient] = field(default_factory=list)
    last_scene: dict[str, Tensor] | None = None  # the parameters before the densification that left no Gaussian

    def image_stacks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Detached images [B, 3, H, W], disparities [B, 1, H, W] and transmittances [B, 1, H, W] of all views."""
        names = ("image", "disparity", "transmittance")
        return tuple(torch.stack([getattr(view, name) for view in self.views]).detach() for name in names)  # type: ignore

    def record(self, points: int) -> dict[str, Any]:
        """The JSON line of this step: losses, timesteps, points, phase times in milliseconds, peak memory."""
        losses = {name: value if math.isfinite(value) else None for name, value in self.losses.items()}
        return {
            "iteration": self.iteration,
            "loss": losses["total"],
            "losses": losses,
            "loss_per_view": self.loss_per_view.tolist() if self.fault is None else None,
            "t": self.t.tolist(),
            "unet_timesteps": self.distillation.unet_timesteps,
            "as_latent": self.as_latent,
            "warm_up_rate": self.warm_up_rate,
            "azimuth_deg": self.azimuth_deg,
            "points": points,
            **({} if self.use_control is None else {"use_control": self.use_control}),
            **({} if self.cograd is None else {"cograd": self.cograd}),
            "fault": self.fault,
            "phase_ms": {name: round(ms, 3) for name, ms in self.timer.ms.items()},
            "peak_mb": {name: round(n / 1e6) for name, n in peak_bytes(self.distillation.grad.device).items()},
        }


def accumulate_gradients(
    state: TrainState, prior: Prior, prompts: PromptBook, config: Config, world: World = ALONE
) -> StepReport:
    """Runs the step state.iteration + 1 up to its parameter gradients, which are left in `.grad`.

    A loss or gradient that is not finite leaves no gradient and is named in `StepReport.fault`.
    """
    state.iteration += 1
    timer, opt = PhaseTimer(), config.optimization
    prepare_schedules(state, config)
    plan = None
    if state.cograd is not None:
        with timer("plan"):
            plan = state.cograd.plan(state.iteration, config.guidance.C_batch_size, state.streams.torch)
    shard = world.shard(config.guidance.C_batch_size)
    with timer("render"):
        drawn = [(camera, _draw_augmentation(state, config)) for camera in _cameras(state, plan, config)]
        views = [_render_view(state, camera, augmentation, config) for camera, augmentation in shard.of(drawn)]
    azimuth_deg = [float(camera.delta_azimuth) for camera, _ in drawn]
    as_latent = state.iteration < opt.geo_iter or state.streams.python.random() < opt.as_latent_ratio
    use_control = _use_control(state, config)
    warm_up_rate = 1.0 - min(state.iteration / opt.warmup_iter, 1.0)
    report = StepReport(state.iteration, views, shard, azimuth_deg, as_latent, warm_up_rate, timer, plan=plan)
    report.use_control = use_control
    with timer("guidance"):
        g_images = _ask_prior(report, state, prior, prompts, config, world)
    if report.fault is None:
        total: Gradient | None = None
        sums: list[Gradient] = []
        numbers = _parameter_count(state)
        for v, gradient in enumerate(_view_gradients(report, state, g_images, opt.lambda_scale, world)):
            with timer("backward"):
                sums.append({name: g.sum() for name, g in gradient.items() if g.numel()})
            if state.cograd is not None and plan is not None:
                with timer("fuse"), threads_for(numbers):
                    if state.cograd.keeps_gradients(state.iteration):
                        gradient = flat(gradient)  # once, for fusing and for the bank
                    report.main_gradients.append(gradient)
                    region, t = int(plan.regions[v]), int(report.t[v])
                    gradient = state.cograd.fuse(state.iteration, region, t, gradient).g_fused
            with timer("backward"), threads_for(numbers):  # what one backward pass over all views would have added up
                total = gradient if total is None else added(total, gradient)
        report.fault = _give_gradient(state, total or {}, sums, report.t)
    if report.fault is not None:
        state.optimizer.zero_grad(set_to_none=True)
    return report


def apply_update(state: TrainState, report: StepReport, config: Config) -> None:
    """Densification, opacity reset and the optimizer step of a step whose gradients are ready.

    Kept from upstream because they shaped published results: densification replaces the parameters, so the optimizer
    step of such an iteration has no gradient; the last iteration makes no optimizer step at all.
    """
    opt = config.optimization
    state.note_fault(report.fault)
    if report.fault is not None:
        return
    numbers = _parameter_count(state)
    if state.cograd is not None and report.plan is not None:
        with report.timer("observe"), threads_for(numbers):
            regions, gradients = report.plan.regions, report.main_gradients
            state.cograd.observe(state.iteration, regions, report.t, report.loss_per_view, gradients)
            report.cograd = state.cograd.record()
    with report.timer("densify"), torch.no_grad():
        if state.iteration < opt.densify_until_iter:
            before = state.gaussians.parameters_in_order()
            _densify(state, report.on_screen, config)
            if not len(state.gaussians.get_xyz):
                report.last_scene = {name: parameter.detach() for name, parameter in before.items()}
    with report.timer("optimizer"), threads_for(numbers):
        if state.iteration < opt.iterations:
            state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        report.broken_parameter = first_not_finite(state.gaussians.parameters_in_order())
        if report.broken_parameter is not None:
            report.fault = f"{report.broken_parameter} is not finite after the update"


def prepare_schedules(state: TrainState, config: Config) -> None:
    """Learning rates, SH degree (one more every 500 iterations) and camera ranges of state.iteration."""
    opt, gaussians, iteration = config.optimization, state.gaussians, state.iteration
    gaussians.update_learning_rate(iteration)
    gaussians.update_feature_learning_rate(iteration)
    gaussians.update_rotation_learning_rate(iteration)
    gaussians.update_scaling_learning_rate(iteration)
    if iteration % 500 == 0:
        gaussians.oneupSHdegree()
    state.scene.ranges = state.scene.ranges.at_step(iteration, opt, config.cameras)


def _cameras(state: TrainState, plan: Plan | None, config: Config) -> Iterator[RCamera]:
    """The step's cameras: in the cells of the planned regions, or, one by one as upstream draws, from its stack."""
    if state.cograd is None or plan is None:
        for _ in range(config.guidance.C_batch_size):
            yield state.scene.camera_stack.pop(state.streams)
    else:
        poses = state.cograd.grid.sample_poses(plan.regions, state.streams.torch)
        yield from state.scene.cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, state.streams, poses.cells)


def _draw_augmentation(state: TrainState, config: Config) -> Augmentation:
    model, background = config.model, plain_background(config, state.gaussians)
    ratios = (model.sh_deg_aug_ratio, model.bg_aug_ratio, model.shs_aug_ratio, model.scale_aug_ratio)
    return draw_augmentation(state.streams, state.gaussians, background, *ratios)


def _render_view(state: TrainState, camera: RCamera, augmentation: Augmentation, config: Config) -> RenderedView:
    pipe = config.pipeline
    if 0 <= config.debug_from < state.iteration:
        pipe = dataclasses.replace(pipe, debug=True)
    out = render(camera, state.gaussians, pipe, augmentation.background, augmentation=augmentation)
    return RenderedView(
        camera,
        augmentation,
        out["render"],
        out["depth"],
        out["alpha"],
        out["viewspace_points"],
        out["visibility_filter"],
        out["radii"],
        out["scales"],
    )


def _ask_prior(
    report: StepReport, state: TrainState, prior: Prior, prompts: PromptBook, config: Config, world: World
) -> list[Tensor]:
    """The gradients of guidance and total variation on the shard's images [., 3, H, W] and disparities [., 1, H, W].

    Leaves the distillation, every term of the loss and a fault in the report.
    """
    images, disparities, transmittances = report.image_stacks()
    images.requires_grad_(), disparities.requires_grad_()
    shard = report.shard
    report.distillation = distill(
        prior,
        images,
        disparities,
        transmittances,
        prompts.conditioning(shard.of(report.azimuth_deg)),
        config.guidance,
        state.streams,
        warm_up_rate=report.warm_up_rate,
        as_latent=report.as_latent,
        memory=state.memory,
        ind_t=None if report.plan is None else _indices_of(prior, shard.of(report.plan.t)),
        use_control=bool(report.use_control),
        shard=shard,
    )
    report.distillation.backward()
    opt, tv_rgb, tv_depth = config.optimization, tv_loss(images), tv_loss(disparities)
    (opt.lambda_tv * len(shard) / shard.total * (tv_rgb + tv_depth)).backward()
    g_images = [leaf.grad for leaf in (images, disparities) if leaf.grad is not None]
    columns = {
        "guidance": report.distillation.loss_per_view,
        "tv_rgb": tv_rgb.expand(len(shard)),
        "tv_depth": tv_depth.expand(len(shard)),
        "scale": torch.stack([view.scales.detach().mean() for view in report.views]),
        "t": report.distillation.t,
        "sound_guidance": report.distillation.finite_per_view,
        "sound_image": torch.stack([g.isfinite().flatten(1).all(dim=1) for g in g_images]).all(dim=0),
    }
    _sum_up(report, gather_numbers(columns, len(state.gaussians.get_xyz), shard, world), opt)
    return g_images


def _sum_up(report: StepReport, numbers: dict[str, Tensor], opt: OptimizationParams) -> None:
    """Terms of the loss, losses and timesteps of the views, and the fault, from numbers [B] of all views."""
    report.loss_per_view, report.t = numbers["guidance"], numbers["t"].long()
    losses = {name: float(numbers[name].mean()) for name in ("guidance", "tv_rgb", "tv_depth", "scale")}
    weighted = opt.lambda_tv * (losses["tv_rgb"] + losses["tv_depth"]) + opt.lambda_scale * losses["scale"]
    report.losses = {**losses, "total": losses["guidance"] + weighted}
    report.fault = _fault(report, numbers["sound_guidance"] > 0, numbers["sound_image"] > 0)


def _use_control(state: TrainState, config: Config) -> bool | None:
    """Whether this step's noise predictions see the ControlNet: one draw (Python stream) a step once it may be used.

    A run without a ControlNet draws nothing.
    """
    if not config.guidance.controlnet_model_key:
        return None
    if state.iteration <= config.optimization.use_control_net_iter:
        return False
    return state.streams.python.random() < config.guidance.controlnet_ratio


def _indices_of(prior: Prior, t: Tensor) -> Tensor:
    """Schedule indices [B] of timesteps t [B]."""
    return sd_step.indices_of_timesteps(t, prior.num_train_timesteps, len(prior.alphas_cumprod), prior.steps_offset)


def _view_gradients(
    report: StepReport, state: TrainState, g_images: list[Tensor], lambda_scale: float, world: World
) -> Iterator[Gradient]:
    """g_main of every view, in their order, each as it is ready; `on_screen` of the report grows alike."""
    own = []
    for v, view in enumerate(report.views):
        with report.timer("backward"):
            _view_backward(view, [g[v] for g in g_images], lambda_scale / report.shard.total)
            gradient = _take_gradient(state)
        assert view.screen_points.grad is not None, "the backward pass has just been there"
        on_screen = OnScreen(view.screen_points.grad[:, :2], view.radii_px)
        if world.size == 1:
            report.on_screen.append(on_screen)
            yield gradient
        else:
            own.append((gradient, on_screen))
    if own:
        with report.timer("exchange"):
            every = gather_gradients(own, report.shard, world)
        for gradient, on_screen in every:
            report.on_screen.append(on_screen)
            yield gradient


def _view_backward(view: RenderedView, g_images: list[Tensor], scale_weight: float) -> None:
    """Takes one view's gradients [3, H, W], [1, H, W] and scale_weight * mean(scales) back through the renderer.

    DECISION: Eq. (9) names the SDS gradient; g_main is the gradient of the view's whole loss, its share of the total
    variation and of the scales included, as one backward pass leaves it.
    """
    g_scale = torch.full((), scale_weight, device=view.scales.device)  # a tensor from a number would wait
    torch.autograd.backward([view.image, view.disparity, view.scales.mean()], [*g_images, g_scale])


def _densify(state: TrainState, views: list[OnScreen], config: Config) -> None:
    """Statistics, then clone, split, prune and reset when due.

    Kept from upstream: the baseline's statistics are those of the batch's last view only.

    DECISION: with CoGrad on, densification statistics are those of every view, from its gradient before it is fused.
    """
    opt, gaussians, iteration = config.optimization, state.gaussians, state.iteration
    for view in views if state.cograd else views[-1:]:
        seen = view.radii_px > 0
        gaussians.max_radii2D = torch.maximum(gaussians.max_radii2D, view.radii_px.float())  # 0 where not seen
        gaussians.add_densification_stats(view.ndc, seen)
    if iteration >= opt.densify_from_iter and iteration % opt.densification_interval == 0:
        max_screen_px = 20 if iteration > opt.opacity_reset_interval else None
        index_map = gaussians.densify_and_prune(
            opt.densify_grad_threshold, 0.005, state.scene.cameras_extent, max_screen_px, state.streams
        )
        if state.cograd is not None:
            with threads_for(_parameter_count(state)):
                state.cograd.remap_rows(index_map)
    if iteration % opt.opacity_reset_interval == 0:
        gaussians.reset_opacity()


def _parameter_count(state: TrainState) -> int:
    return sum(p.numel() for p in state.gaussians.parameters_in_order().values())


def _take_gradient(state: TrainState) -> Gradient:
    """The gradient that a backward pass left, by parameter name, taken away from the parameters."""
    parameters = state.gaussians.parameters_in_order()
    gradient = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    state.optimizer.zero_grad(set_to_none=True)
    return gradient


def _give_gradient(state: TrainState, gradient: Gradient, sums: list[Gradient], t: Tensor) -> str | None:
    """Hands the step's gradient to the optimizer; names the first parameter for which it is not finite, and the view.

    sums: of each view's gradient, by parameter. One number is read from the device when all is well.
    """
    for name, parameter in state.gaussians.parameters_in_order().items():
        parameter.grad = gradient.get(name)
    bad = first_not_finite(gradient)
    if bad is None:
        return None
    for v, of_view in enumerate(sums):  # fusing spreads one parameter's NaN over all of them
        if (own := first_not_finite(of_view)) is not None:
            return f"the gradient of {own} is not finite (view {v}, timestep {int(t[v])})"
    return f"the sum of all views' gradients of {bad} is not finite"


def _fault(report: StepReport, sound_guidance: Tensor, sound_image: Tensor) -> str | None:
    """Names the first term that is not finite, with its views [B] and timesteps; None when all are."""
    terms = [name for name, value in report.losses.items() if not math.isfinite(value)]
    terms += [] if bool(sound_guidance.all()) else ["guidance gradient"]
    bad_views = (~sound_image).nonzero().flatten().tolist()
    if not terms and not bad_views:
        return None
    t = report.t.tolist()
    return f"{(terms or ['image gradient'])[0]} is not finite (views {bad_views or 'all'}, timesteps {t})"
