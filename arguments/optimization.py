# SPDX-License-Identifier: Apache-2.0
"""The settings of the optimizer, the loss and densification, under LucidDreamer's names (arguments/__init__.py)."""

import dataclasses

from arguments.declare import FRACTION, FROM_STEP, MANY, RATE, STEPS, key, new


@dataclasses.dataclass(frozen=True)
class OptimizationParams:
    """Length of the run, learning rates, loss weights, densification and widening of the camera ranges."""

    iterations: int = key(5000, "training iterations", unit="iterations", lo=1, hi=10_000_000)
    position_lr_init: float = key(1.6e-4, "first learning rate of positions, times the scene's extent", **RATE)
    position_lr_final: float = key(1.6e-6, "last learning rate of positions, times the scene's extent", **RATE)
    position_lr_delay_mult: float = key(0.01, "warm-up factor of a warm-up of length 0", unread=True, **RATE)
    position_lr_max_steps: int = key(30_000, "length of plain 3DGS's schedule", unread=True, **STEPS)
    feature_lr: float = key(5e-3, "first learning rate of colours", **RATE)
    feature_lr_final: float = key(3e-3, "last learning rate of colours", **RATE)
    opacity_lr: float = key(0.05, "learning rate of opacity logits", **RATE)
    scaling_lr: float = key(5e-3, "first learning rate of log scales", **RATE)
    rotation_lr: float = key(1e-3, "first learning rate of rotations", **RATE)
    weight_decay: float = new(0.0, "AdamW: weight decay", **RATE)
    adam_beta2: float = new(0.999, "AdamW: memory of the mean squared gradient", lo=0.0, hi=0.99999)
    geo_iter: int = key(0, "before this iteration the disparity is encoded, not the colour", **FROM_STEP)
    as_latent_ratio: float = key(0.2, "probability of encoding the disparity instead of the colour", **FRACTION)
    resnet_lr: float = key(1e-4, "learning rate of a network that does not exist", unread=True, **RATE)
    resnet_lr_init: float = key(2e-3, "learning rate of a network that does not exist", unread=True, **RATE)
    resnet_lr_final: float = key(5e-5, "learning rate of a network that does not exist", unread=True, **RATE)
    scaling_lr_final: float = key(1e-3, "last learning rate of log scales", **RATE)
    rotation_lr_final: float = key(2e-4, "last learning rate of rotations", **RATE)
    percent_dense: float = key(0.003, "clone below, split above this share of the scene's extent", **RATE)
    densify_grad_threshold: float = key(7.5e-4, "screen-space gradient from which a Gaussian is densified", **RATE)
    lambda_tv: float = key(1.0, "weight of total variation of colour and disparity", **RATE)
    lambda_bin: float = key(10.0, "weight of a loss that upstream dropped", unread=True, **RATE)
    lambda_scale: float = key(1.0, "weight of the mean scale", **RATE)
    lambda_z_variance: float = new(0.0, "weight of HiFA's z-variance, one more rasterization a view; 0: none", **RATE)
    lambda_flatness: float = new(0.0, "weight of the mean smallest scale of a Gaussian", **RATE)
    lambda_translucency: float = new(0.0, "weight of pixels that are neither opaque nor empty", **RATE)
    lambda_sat: float = key(1.0, "weight of a loss that upstream dropped", unread=True, **RATE)
    lambda_radius: float = key(1.0, "weight of a loss that upstream dropped", unread=True, **RATE)
    densification_interval: int = key(100, "iterations between densifications", **STEPS)
    opacity_reset_interval: int = key(300, "iterations between opacity resets", **STEPS)
    densify_from_iter: int = key(100, "first iteration of densification", **FROM_STEP)
    densify_until_iter: int = key(3000, "densification stops before this iteration", **FROM_STEP)
    densifier: str = new(
        "inria",
        "how Gaussians are added: as in 3DGS; by gradients that cannot cancel between pixels; by relocation and noise, "
        "as 3DGS-MCMC; as in 3DGS where Adam's moments agree on a direction",
        choices=("inria", "absgrad", "mcmc", "cadam"),
    )
    max_points: int = new(
        5_000_000,
        "densifier inria: the run stops when there are more Gaussians; the others: their number grows up to it",
        unit="Gaussians",
        lo=1,
        hi=MANY,
    )
    mcmc_noise: float = new(5e5, "densifier mcmc: noise on positions, times their learning rate", **RATE)
    mcmc_opacity: float = new(0.01, "densifier mcmc: weight of the mean opacity", **RATE)
    cadam_ratio: float = new(0.3, "densifier cadam: least ratio of Adam's moments, first to root of second", **FRACTION)
    use_control_net_iter: int = key(10_000_000, "ControlNet is used after this iteration", **FROM_STEP)
    warmup_iter: int = key(1500, "length of the guidance's warm-up; 1: none", **STEPS)
    use_progressive: bool = key(False, "false (upstream's meaning): camera ranges ARE widened")
    save_process: bool = key(True, "write a video of the training process")
    pro_frames_num: int = key(600, "frames of the process video", unit="frames", lo=1, hi=20_000)
    pro_render_45: bool = key(False, "process video from 45 degrees above too", unread=True)
    progressive_view_iter: int = key(500, "first iteration at which ranges are widened", **FROM_STEP)
    progressive_view_init_ratio: float = key(0.2, "first share of the ranges", **FRACTION, unread=True)
    scale_up_cameras_iter: int = key(500, "iterations between widenings", **STEPS)
    scale_up_factor: float = key(0.95, "factor on both ends of radius_range at a widening", above=0.0, hi=100.0)
    fovy_scale_up_factor: tuple[float, float] = key(
        (0.75, 1.1), "factors on the ends of fovy_range", above=0.0, hi=100.0
    )
    phi_scale_up_factor: float = key(1.5, "factor on theta_range and phi_range at a widening", above=0.0, hi=100.0)
