# SPDX-License-Identifier: Apache-2.0
"""Which settings a run reads: a row for each that some runs do not, so that one without effect is reported.

A new key needs a row in ROWS, or a place among those that every run reads in tests/arguments/test_no_effect.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from arguments import GROUPS, Config
from arguments.declare import keys_of
from distillation.law import LAW_KEYS
from utils.model_ids import is_local

MODEL, OPT, CAMERAS = "ModelParams", "OptimizationParams", "GenerateCamParams"
GUIDANCE, COGRAD, TOP = "GuidanceParams", "CoGradParams", ""


@dataclass(frozen=True)
class Row:
    """Keys of a group that a run reads only when `is_read` says so; `otherwise`: why it does not."""

    group: str
    keys: str
    is_read: Callable[[Config], bool]
    otherwise: str


def _steps(c: Config) -> int:
    return c.optimization.iterations


def _densifies(c: Config) -> bool:
    opt = c.optimization
    first = max(-(-opt.densify_from_iter // opt.densification_interval), 1) * opt.densification_interval
    return first < min(opt.densify_until_iter, _steps(c) + 1)


def _resets_opacity(c: Config) -> bool:
    return c.optimization.opacity_reset_interval < min(c.optimization.densify_until_iter, _steps(c) + 1)


def _is_mcmc(c: Config) -> bool:
    return c.optimization.densifier == "mcmc"


def _widens(c: Config) -> bool:
    opt = c.optimization
    last = _steps(c) // opt.scale_up_cameras_iter * opt.scale_up_cameras_iter
    return not opt.use_progressive and last >= max(opt.progressive_view_iter, 1)


def _is_sd(c: Config) -> bool:
    return c.guidance.guidance == "SD"


def _from_text(c: Config) -> bool:
    return c.cameras.init_shape in ("pointe", "shap_e")


def _read_by_law(key: str) -> Callable[[Config], bool]:
    return lambda c: key in c.guidance.law.reads


def _scheduled(*names: str) -> Callable[[Config], bool]:
    return lambda c: c.guidance.t_schedule in names


def _baseline(c: Config) -> bool:
    return not c.cograd.enabled


def _is_file(key: str | None) -> bool:
    return Path(key or "").suffix in (".safetensors", ".ckpt")


NO_SD = "GuidanceParams.guidance is ideal"
OTHER_LAW = "the distillation law does not use it (GuidanceParams.distillation, sds)"
PLACED = "CoGrad places the cameras in its regions (elevation_range, distance_range)"
NO_FUSION = "CoGradParams.use_fusion is false"
NO_DENSIFYING = "nothing is densified in these iterations (densify_from_iter, densify_until_iter)"
IS_MCMC = "OptimizationParams.densifier is mcmc"
NO_WIDENING = "no camera range is widened in these iterations (use_progressive, progressive_view_iter)"
NO_CONTROL = "GuidanceParams.controlnet_model_key is not set"

COGRAD_KEYS = " ".join(key for key in keys_of(GROUPS[COGRAD][1]) if key != "enabled")

# Several rows of a key hold together; the first that does not is the reason.
ROWS: tuple[Row, ...] = (
    Row(TOP, "port ip", lambda c: c.gui, "gui is false"),
    Row(TOP, "viewer_host viewer_port viewer_interval", lambda c: c.viewer, "viewer is false"),
    Row(TOP, "keep_checkpoints keep_last_checkpoint", lambda c: c.checkpoint_every > 0, "checkpoint_every is 0"),
    Row(
        TOP,
        "checkpoint_iterations",
        lambda c: max(c.checkpoint_iterations, default=0) <= _steps(c),
        "some or all are beyond iterations",
    ),
    Row(TOP, "debug_from", lambda c: not c.pipeline.debug, "PipelineParams.debug is true"),
    Row(TOP, "debug_from", lambda c: c.debug_from < _steps(c), "no iteration comes after it"),
    Row(MODEL, "workspace", lambda c: not c.model.model_path, "ModelParams.model_path is given"),
    Row(MODEL, "batch", _baseline, PLACED),
    Row(MODEL, "sh_deg_aug_ratio", lambda c: c.model.sh_degree > 0, "ModelParams.sh_degree is 0"),
    Row(OPT, "as_latent_ratio", lambda c: c.optimization.geo_iter <= _steps(c), "geo_iter is beyond iterations"),
    Row(
        OPT, "densify_from_iter densification_interval", lambda c: c.optimization.densify_until_iter > 1, NO_DENSIFYING
    ),
    Row(OPT, "percent_dense densify_grad_threshold", _densifies, NO_DENSIFYING),
    Row(OPT, "opacity_reset_interval", lambda c: _densifies(c) or _resets_opacity(c), NO_DENSIFYING),
    Row(OPT, "percent_dense densify_grad_threshold opacity_reset_interval", lambda c: not _is_mcmc(c), IS_MCMC),
    Row(OPT, "densifier", lambda c: _densifies(c) or _is_mcmc(c), NO_DENSIFYING),
    Row(OPT, "mcmc_noise mcmc_opacity", _is_mcmc, "OptimizationParams.densifier is not mcmc"),
    Row(OPT, "cadam_ratio", lambda c: c.optimization.densifier == "cadam", "OptimizationParams.densifier is not cadam"),
    Row(OPT, "cadam_ratio", _densifies, NO_DENSIFYING),
    Row(OPT, "use_control_net_iter", lambda c: bool(c.guidance.controlnet_model_key), NO_CONTROL),
    Row(
        OPT,
        "warmup_iter",
        lambda c: (
            (_baseline(c) and c.guidance.t_schedule == "warm_up")
            or ("delta_t" in c.guidance.law.reads and c.guidance.annealing_intervals)
        ),
        "neither timesteps nor an interval follow the warm-up (CoGrad, t_schedule, distillation, annealing_intervals)",
    ),
    Row(
        OPT,
        "progressive_view_iter scale_up_cameras_iter",
        lambda c: not c.optimization.use_progressive,
        "OptimizationParams.use_progressive is true",
    ),
    Row(OPT, "scale_up_factor phi_scale_up_factor", _baseline, PLACED),
    Row(OPT, "scale_up_factor phi_scale_up_factor fovy_scale_up_factor", _widens, NO_WIDENING),
    Row(OPT, "pro_frames_num", lambda c: c.optimization.save_process, "save_process is false"),
    Row(CAMERAS, "init_prompt use_pointe_rgb init_fallback", _from_text, "init_shape is neither pointe nor shap_e"),
    Row(CAMERAS, "init_num_pts", lambda c: c.cameras.init_shape != "file", "init_shape is file"),
    Row(CAMERAS, "init_file", lambda c: c.cameras.init_shape == "file", "init_shape is not file"),
    Row(CAMERAS, "init_grow_distance", lambda c: c.cameras.init_grow > 0, "init_grow is 0"),
    Row(CAMERAS, "shap_e_model_key", lambda c: c.cameras.init_shape == "shap_e", "init_shape is not shap_e"),
    Row(
        CAMERAS,
        "radius_range theta_range",
        lambda c: _baseline(c) or not _is_sd(c) or c.cameras.init_shape == "scene",
        PLACED,
    ),
    Row(CAMERAS, "max_radius_range max_theta_range", lambda c: _baseline(c) or not _is_sd(c), PLACED),
    Row(CAMERAS, "phi_range max_phi_range rand_cam_gamma uniform_sphere_rate", _baseline, PLACED),
    Row(
        CAMERAS,
        "max_radius_range max_theta_range max_fovy_range",
        lambda c: _widens(c) or not _is_sd(c),
        NO_WIDENING,
    ),
    Row(CAMERAS, "max_phi_range", _widens, NO_WIDENING),
    Row(CAMERAS, "jitter_center jitter_target jitter_up", lambda c: c.cameras.jitter_pose, "jitter_pose is false"),
    Row(
        GUIDANCE,
        "model_key model_key_mirror model_revision is_safe_tensor base_model_key controlnet_model_key vram_O fp16 "
        "precision channels_last fuse_qkv attention_kernel compile_unet cuda_graphs keep_text_encoder unet_batch "
        "unet_cache_interval vae_slicing vae_checkpointing offload_unet textual_inversion_path LoRA_path LoRA_scale "
        "tiny_vae tiny_vae_until controlnet_ratio negative inverse_text "
        "contrast_text",
        _is_sd,
        NO_SD,
    ),
    Row(
        GUIDANCE,
        "model_revision",
        lambda c: not is_local(c.guidance.model_key),
        "GuidanceParams.model_key is a folder or file",
    ),
    Row(GUIDANCE, "base_model_key", lambda c: _is_file(c.guidance.model_key), "GuidanceParams.model_key is no file"),
    Row(GUIDANCE, "ideal_uncond ideal_images", lambda c: not _is_sd(c), "GuidanceParams.guidance is SD"),
    Row(GUIDANCE, "fp16", lambda c: c.guidance.precision == "auto", "GuidanceParams.precision is given"),
    Row(GUIDANCE, "fp16", lambda c: c.device != "cpu", "device is cpu"),
    Row(GUIDANCE, "LoRA_scale", lambda c: bool(c.guidance.LoRA_path), "GuidanceParams.LoRA_path is not set"),
    Row(GUIDANCE, "LoRA_path", lambda c: c.guidance.LoRA_scale != 0, "GuidanceParams.LoRA_scale is 0"),
    Row(GUIDANCE, "controlnet_ratio", lambda c: bool(c.guidance.controlnet_model_key), NO_CONTROL),
    Row(GUIDANCE, "controlnet_model_key", lambda c: c.guidance.controlnet_ratio > 0, "controlnet_ratio is 0"),
    Row(GUIDANCE, "tiny_vae", lambda c: c.guidance.tiny_vae_until > 0, "GuidanceParams.tiny_vae_until is 0"),
    Row(GUIDANCE, "tiny_vae_until", lambda c: bool(c.guidance.tiny_vae), "GuidanceParams.tiny_vae is not set"),
    Row(GUIDANCE, "negative_w front_decay_factor side_decay_factor", lambda c: c.guidance.perpneg, "perpneg is false"),
    Row(
        GUIDANCE,
        "front_decay_factor side_decay_factor",
        lambda c: c.guidance.negative_w != 0,
        "GuidanceParams.negative_w is 0",
    ),
    Row(
        GUIDANCE,
        "t_schedule t_range_start t_switch max_t_range",
        _baseline,
        "CoGrad sets the timesteps (prog_range, t_base_range)",
    ),
    Row(
        GUIDANCE,
        "t_range",
        lambda c: _baseline(c) or "t_range" in c.guidance.law.reads,
        "CoGrad sets the timesteps (prog_range, t_base_range)",
    ),
    Row(GUIDANCE, "max_t_range", _scheduled("warm_up"), "GuidanceParams.t_schedule is not warm_up"),
    Row(GUIDANCE, "t_range_start", _scheduled("step", "moving"), "GuidanceParams.t_schedule is not step or moving"),
    Row(GUIDANCE, "t_switch", _scheduled("step"), "GuidanceParams.t_schedule is not step"),
    *(Row(GUIDANCE, key, _read_by_law(key), OTHER_LAW) for key in LAW_KEYS.split()),
    Row(
        GUIDANCE,
        "sds",
        lambda c: c.guidance.distillation == "auto",
        "GuidanceParams.distillation names the law",
    ),
    Row(GUIDANCE, "vis_interval", lambda c: c.guidance.vis_interval <= _steps(c), "it is beyond iterations"),
    Row(
        GUIDANCE,
        "fix_noise",
        lambda c: c.guidance.noise_source == "fresh",
        "GuidanceParams.noise_source is not fresh",
    ),
    Row(GUIDANCE, "fix_noise", lambda c: not c.guidance.perpneg, "GuidanceParams.perpneg is true"),
    Row(GUIDANCE, "delta_t_start", lambda c: c.guidance.annealing_intervals, "annealing_intervals is false"),
    Row(COGRAD, COGRAD_KEYS, lambda c: c.cograd.enabled, "CoGradParams.enabled is false"),
    Row(COGRAD, "eps_stab tau min_visit_share", lambda c: c.cograd.use_regions, "CoGradParams.use_regions is false"),
    Row(COGRAD, "opposite_views", lambda c: c.guidance.C_batch_size > 1, "GuidanceParams.C_batch_size is 1"),
    Row(
        COGRAD,
        "loss_signal loss_signal_bins",
        lambda c: c.cograd.use_regions or c.cograd.timestep_mode == "full",
        "neither regions nor timesteps follow the loss (use_regions, timestep_mode)",
    ),
    Row(
        COGRAD,
        "loss_signal_bins",
        lambda c: c.cograd.loss_signal == "t_normalised",
        "CoGradParams.loss_signal is not t_normalised",
    ),
    Row(
        COGRAD,
        "prog_range prog_reading t_jitter",
        lambda c: c.cograd.timestep_mode != "random",
        "CoGradParams.timestep_mode is random",
    ),
    Row(
        COGRAD,
        "c1 c2 c3 u_max momentum c_local ema_factor",
        lambda c: c.cograd.timestep_mode == "full",
        "CoGradParams.timestep_mode is not full",
    ),
    Row(
        COGRAD,
        "c1 c2 c3 u_max momentum ema_factor",
        lambda c: c.cograd.c_local > 0,
        "CoGradParams.c_local is 0",
    ),
    Row(
        COGRAD,
        "fusion_range max_step_share max_t_difference own_region_is_candidate delta projection bank_precision "
        "bank_limit_mb bank_on_cpu",
        lambda c: c.cograd.use_fusion,
        NO_FUSION,
    ),
    Row(
        COGRAD,
        "neighbour_distance",
        lambda c: c.cograd.use_fusion or c.cograd.timestep_mode == "full",
        "neither gradients nor timesteps look at neighbours (use_fusion, timestep_mode)",
    ),
)


def without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """(Group.key, why) of every key that this run does not read, whatever its value."""
    for group, declared in (("", Config), *((group, declared) for group, (_, declared) in GROUPS.items())):
        for key, (_, spec, _) in keys_of(declared).items():
            reason = "nothing reads it" if spec.unread else _reason(config, group, key)
            if reason:
                yield f"{group}.{key}" if group else key, reason


def _reason(config: Config, group: str, key: str) -> str:
    """Why the run does not read a key; empty when it does."""
    rows = (row for row in ROWS if row.group == group and key in row.keys.split())
    return next((row.otherwise for row in rows if not row.is_read(config)), "")


def no_effect_notices(config: Config) -> list[str]:
    """One sentence on the settings that the user gave (Config.given) and this run does not read; none: no sentence."""
    by_reason: dict[str, list[str]] = {}
    for label, reason in without_effect(config):
        if label in config.given:
            by_reason.setdefault(reason, []).append(label)
    if not by_reason:
        return []
    listed = "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in by_reason.items())
    return [f"settings without effect in this run: {listed}"]
