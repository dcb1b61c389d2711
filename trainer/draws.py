# SPDX-License-Identifier: Apache-2.0
"""What a training step draws before it renders: regions and timesteps, cameras, augmentations, and two decisions.

Upstream's order is kept: camera and augmentation view by view, then `as_latent`.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from arguments import Config
from cograd import Plan
from gaussian_renderer import Augmentation, draw_augmentation
from guidance.predictor import Cameras
from scene.cameras import RCamera
from trainer.outputs import plain_background
from trainer.run_log import PhaseTimer
from trainer.state import TrainState


@dataclass(frozen=True)
class Draws:
    """What a step draws before it renders, for all of its views."""

    plan: Plan | None  # CoGrad's regions and timesteps; None: the baseline
    views: list[tuple[RCamera, Augmentation]]
    as_latent: bool  # whether disparity is encoded in the place of colour
    use_control: bool | None  # whether the ControlNet is used; None: the run has none
    warm_up_rate: float

    @functools.cached_property
    def cameras(self) -> Cameras:
        """Of each view."""
        return Cameras.of_views([camera for camera, _ in self.views])

    @property
    def azimuth_deg(self) -> list[float]:
        """Of each view, 0 in front."""
        return [float(camera.delta_azimuth) for camera, _ in self.views]


def draw_views(state: TrainState, config: Config, timer: PhaseTimer) -> Draws:
    """The step's cameras: in the cells of the planned regions, or, one by one as upstream draws, from its stack."""
    count, opt, streams = config.guidance.C_batch_size, config.optimization, state.streams
    plan = None
    if state.cograd is not None:
        with timer("plan"):
            plan = state.cograd.plan(state.iteration, count, streams.torch)
    with timer("render"):
        if state.cograd is None or plan is None:
            cameras: Iterable[RCamera] = (state.scene.camera_stack.pop(streams) for _ in range(count))
        else:
            poses = state.cograd.grid.sample_poses(plan.regions, streams.torch)
            cameras = state.scene.cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, streams, poses.cells)
        views = [(camera, _draw_augmentation(state, config)) for camera in cameras]
    as_latent = state.iteration < opt.geo_iter or streams.python.random() < opt.as_latent_ratio
    warm_up_rate = 1.0 - min(state.iteration / opt.warmup_iter, 1.0)
    return Draws(plan, views, as_latent, draw_use_control(state, config), warm_up_rate)


def _draw_augmentation(state: TrainState, config: Config) -> Augmentation:
    model, background = config.model, plain_background(config, state.gaussians)
    ratios = (model.sh_deg_aug_ratio, model.bg_aug_ratio, model.shs_aug_ratio, model.scale_aug_ratio)
    return draw_augmentation(state.streams, state.gaussians, background, *ratios)


def draw_use_control(state: TrainState, config: Config) -> bool | None:
    """Whether this step's noise predictions see the ControlNet: one draw (Python stream) a step once it may be used.

    A run without a ControlNet draws nothing.
    """
    if not config.guidance.controlnet_model_key:
        return None
    if state.iteration <= config.optimization.use_control_net_iter:
        return False
    return state.streams.python.random() < config.guidance.controlnet_ratio
