# SPDX-License-Identifier: Apache-2.0
"""Settings that a run does not read: every key has its place in the table, and what the user set is reported once."""

import dataclasses
import functools
import logging

import pytest

import train
from arguments import GROUPS, Config
from arguments.declare import keys_of
from arguments.load import load_config
from arguments.no_effect import CAMERAS, COGRAD, GUIDANCE, MODEL, OPT, ROWS, TOP, no_effect_notices, without_effect
from distillation import LAWS
from toy.ideal import IdealPrior

SD = "tests/data/golden/tiny-sd"
TEXT = ["--text", "a red mug"]
IDEAL, TRAINED, PAPER = ("configs/quickstart.yaml", "configs/quickstart_trained.yaml", "configs/prompt.yaml")


ALWAYS_READ: dict[str, str] = {
    TOP: "seed device test_ratio save_ratio save_video detect_anomaly quiet checkpoint_every "
    "max_faults_in_a_row start_checkpoint resume overwrite opt dry_run gui viewer",
    MODEL: "model_path white_background data_device bg_aug_ratio shs_aug_ratio scale_aug_ratio sh_degree",
    OPT: "iterations position_lr_init position_lr_final feature_lr feature_lr_final opacity_lr scaling_lr "
    "scaling_lr_final rotation_lr rotation_lr_final weight_decay adam_beta2 geo_iter lambda_tv lambda_scale lambda_z_variance "
    "lambda_flatness lambda_translucency densify_until_iter use_progressive save_process max_points",
    "PipelineParams": "convert_SHs_python compute_cov3D_python debug mip_filter rasterizer",
    CAMERAS: "init_shape init_grow default_radius fovy_range render_45 image_w image_h view_px SSAA default_polar "
    "default_azimuth default_fovy jitter_pose device",
    GUIDANCE: "guidance g_device perpneg memory_check num_train_timesteps noise_seed text allow_unknown_words "
    "lambda_guidance weighting front_bias C_batch_size distillation noise_source grad_clamp "
    "grad_unit_norm image_residual",
    COGRAD: "enabled",
}
"""Group -> keys that every run reads, or whose default is the only value without effect."""


def declared():
    for group, kind in (("", Config), *((group, kind) for group, (_, kind) in GROUPS.items())):
        for key, (_, spec, _) in keys_of(kind).items():
            yield group, key, spec.unread


def notice(*words):
    (told,) = no_effect_notices(load_config([*TEXT, *words])) or [""]
    return told


def test_every_key_has_one_place():
    always = {(group, key) for group, keys in ALWAYS_READ.items() for key in keys.split()}
    rows = {(row.group, key) for row in ROWS for key in row.keys.split()}
    unread = {(group, key) for group, key, is_unread in declared() if is_unread}
    known = {(group, key) for group, key, _ in declared()}
    assert not always & rows and not unread & (always | rows)
    assert always | rows | unread == known


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.keys[:40])
def test_every_row_has_a_run_that_meets_it(row):
    """Of the runs below some read the row's keys, and some do not."""
    met = {row.is_read(run) for run in runs()}
    assert met == {True, False}


RUNS = [
    [],
    ["--opt", IDEAL],
    ["--opt", PAPER],
    ["--gui", "--viewer", "--checkpoint_every", "0", "--PipelineParams.debug", "--model_path", "x", "--sh_degree", "1"],
    ["--geo_iter", "9000", "--densify_until_iter", "0", "--sds", "--perpneg", "false", "--save_process", "false"],
    ["--init_shape", "pointe", "--init_prompt", "a", "--jitter_pose", "false", "--negative_w", "0"],
    ["--init_shape", "file", "--init_file", "points.ply", "--init_grow", "9"],
    ["--init_shape", "shap_e", "--init_prompt", "a", "--precision", "float32", "--device", "cpu", "--LoRA_scale", "0"],
    ["--controlnet_model_key", "a/b", "--use_control_net_iter", "1", "--controlnet_ratio", "0", "--LoRA_path", "x", "--tiny_vae", "x", "--tiny_vae_until", "0"],
    ["--opt", PAPER, "--use_regions", "false", "--timestep_mode", "random", "--loss_signal", "t_normalised"],
    ["--opt", PAPER, "--use_fusion", "false", "--c_local", "0", "--timestep_mode", "random"],
    ["--opt", PAPER, "--sds", "--use_progressive", "true"],
    ["--model_key", "a.safetensors", "--annealing_intervals", "false"],
    ["--model_key", "assets/toy-prior"],
    ["--iterations", "10", "--checkpoint_iterations", "5", "11", "--debug_from", "10"],
    *(["--distillation", law] for law in LAWS),
    ["--noise_source", "fixed", "--t_schedule", "step"],
    ["--densifier", "mcmc"],
    ["--densifier", "cadam"],
]


@functools.cache
def runs():
    return [load_config([*TEXT, *words]) for words in RUNS]


@pytest.mark.parametrize(
    ("words", "label", "reason"),
    [
        (["--tau", "0.2"], "CoGradParams.tau", "CoGradParams.enabled is false"),
        (["--opt", PAPER, "--use_regions", "false", "--tau", "0.2"], "CoGradParams.tau", "use_regions is false"),
        (["--perpneg", "false", "--negative_w", "-1"], "GuidanceParams.negative_w", "perpneg is false"),
        (["--sds", "--delta_t", "50"], "GuidanceParams.delta_t", "the distillation law does not use it"),
        (["--distillation", "csd", "--guidance_scale", "3"], "GuidanceParams.guidance_scale", "law does not use it"),
        (["--distillation", "asd", "--noising", "inversion"], "GuidanceParams.noising", "law does not use it"),
        (["--distillation", "cds", "--fix_noise"], "GuidanceParams.fix_noise", "noise_source is not fresh"),
        (["--distillation", "cds", "--max_t_range", "0.9"], "GuidanceParams.max_t_range", "t_schedule is not warm_up"),
        (["--distillation", "sds", "--sds"], "GuidanceParams.sds", "distillation names the law"),
        (["--opt", PAPER, "--distillation", "sds", "--t_schedule", "sqrt"], "GuidanceParams.t_schedule", "CoGrad sets"),
        (["--init_prompt", "a"], "GenerateCamParams.init_prompt", "init_shape"),
        (["--controlnet_ratio", "1"], "GuidanceParams.controlnet_ratio", "controlnet_model_key"),
        (["--LoRA_scale", "0.5"], "GuidanceParams.LoRA_scale", "LoRA_path"),
        (["--LoRA_path", "x", "--LoRA_scale", "0"], "GuidanceParams.LoRA_path", "LoRA_scale is 0"),
        (["--opt", IDEAL, "--vram_O", "true"], "GuidanceParams.vram_O", "guidance is ideal"),
        (["--opt", IDEAL, "--negative", "ugly"], "GuidanceParams.negative", "guidance is ideal"),
        (["--opt", IDEAL, "--attention_kernel", "math"], "GuidanceParams.attention_kernel", "guidance is ideal"),
        (["--opt", IDEAL, "--percent_dense", "0.1"], "OptimizationParams.percent_dense", "densified"),
        (["--densification_interval", "6000", "--percent_dense", "0.1"], "OptimizationParams.percent_dense", "densified"),
        (["--save_process", "false", "--pro_frames_num", "3"], "OptimizationParams.pro_frames_num", "save_process"),
        (["--pro_render_45", "true"], "OptimizationParams.pro_render_45", "nothing reads it"),
        (["--viewer_interval", "3"], "viewer_interval", "viewer is false"),
        (["--opt", PAPER, "--phi_range", "-80", "80"], "GenerateCamParams.phi_range", "CoGrad places the cameras"),
        (["--opt", PAPER, "--t_range", "0.1", "0.2"], "GuidanceParams.t_range", "CoGrad sets the timesteps"),
        (["--images", "photos"], "ModelParams.images", "nothing reads it"),
        (["--keep_checkpoints", "3", "--checkpoint_every", "0"], "keep_checkpoints", "checkpoint_every is 0"),
        (["--keep_last_checkpoint", "true", "--checkpoint_every", "0"], "keep_last_checkpoint", "checkpoint_every is 0"),
        (["--iterations", "10", "--max_fovy_range", "0.2", "0.3"], "GenerateCamParams.max_fovy_range", "widened"),
        (["--perpneg", "true", "--fix_noise"], "GuidanceParams.fix_noise", "perpneg is true"),
        (["--iterations", "10", "--vis_interval", "11"], "GuidanceParams.vis_interval", "beyond iterations"),
        (["--iterations", "10", "--checkpoint_iterations", "5", "11"], "checkpoint_iterations", "beyond iterations"),
        (["--iterations", "10", "--debug_from", "10"], "debug_from", "no iteration comes after it"),
        (["--model_path", "x", "--workspace", "y"], "ModelParams.workspace", "model_path is given"),
    ],
)
def test_a_setting_without_effect_is_named_with_its_reason(words, label, reason):
    told = notice(*words)
    assert label in told and reason in told and "\n" not in told


@pytest.mark.parametrize(
    "words", [[], ["--opt", IDEAL], ["--opt", PAPER], ["--opt", "bagel"], ["--opt", IDEAL, "--SSAA", "1"]]
)
def test_nothing_is_told_of_what_the_user_did_not_set(words):
    assert notice(*words) == ""


def test_settings_with_effect_are_not_told():
    last = ["--vis_interval", "10", "--checkpoint_iterations", "5", "10", "--debug_from", "9", "--max_points", "200000"]
    assert notice("--iterations", "10", *last, "--perpneg", "false", "--fix_noise") == ""
    assert notice("--opt", PAPER, "--tau", "0.2", "--delta_t", "50", "--negative", "ugly", "--vram_O", "true") == ""
    assert notice("--viewer_port", "1234") == ""  # it opens the viewer


def test_the_users_own_file_is_looked_at_and_a_resolved_one_is_not(tmp_path, capsys):
    own = tmp_path / "own.yaml"
    own.write_text("CoGradParams: {tau: 0.3, c1: 0.5}\nGuidanceParams: {delta_t: 50}\n")
    assert notice("--opt", str(own)) == (
        "settings without effect in this run: CoGradParams.tau (CoGradParams.enabled is false)"
    )
    assert train.main([*TEXT, "--opt", IDEAL, "--dry-run", "--model_path", str(tmp_path / "run")]) == 0
    resolved = tmp_path / "config.yaml"
    resolved.write_text(capsys.readouterr().out)
    assert notice("--opt", str(resolved)) == ""


LEFT_OUT = {"LoRA_path", "textual_inversion_path", "controlnet_model_key", "tiny_vae"}  # refused by the ideal prior
OPENING = {"ip", "port", "viewer_host", "viewer_port"}  # they open a viewer
SMALL = {
    "image_w": 16, "image_h": 16, "view_px": 16, "init_num_pts": 40, "iterations": 3, "save_video": False,
    "test_ratio": 1, "save_ratio": 1, "C_batch_size": 2, "device": "cpu", "quiet": True, "checkpoint_every": 0,
}  # fmt: skip


def other_value(spec, value):
    """A value that a key takes and that is not `value`."""
    if isinstance(value, bool):
        return not value
    if spec.choices:
        return next((choice for choice in spec.choices if choice != value), value)
    if isinstance(value, tuple):
        low, high = value
        ends = (low + (high - low) / 4, high - (high - low) / 4) if high > low else (low * 1.01, high * 1.01)
        return tuple(map(type(low), ends))
    if isinstance(value, int | float):
        return type(value)(value * 2 + 1) if spec.allows(value * 2 + 1) else type(value)(value / 2)
    return "another"


@pytest.mark.parametrize(
    "variant",
    [
        {"opt": IDEAL},
        {"opt": IDEAL, "CoGradParams.enabled": False},
        {"opt": IDEAL, "CoGradParams.use_regions": False, "CoGradParams.timestep_mode": "random", "jitter_pose": False},
        {"opt": IDEAL, "CoGradParams.use_fusion": False, "CoGradParams.c_local": 0.0, "save_process": False},
        {"model_key": SD, "text": "a cat", "perpneg": False, "sds": True},
        {"model_key": SD, "text": "a cat", "CoGradParams.enabled": True, "xs_inv_steps": 1},
    ],
    ids=str,
)
def test_what_is_told_to_have_no_effect_has_none(variant, tmp_path, monkeypatch):
    """Every such setting is given another value at once, and the scene stays the same bit for bit."""
    monkeypatch.setitem(IdealPrior.__init__.__kwdefaults__, "images", 12)
    plain = [word for name, value in {**SMALL, **variant}.items() for word in (f"--{name}", str(value))]
    config = load_config([*plain, "--model_path", "x"])
    changed = []
    for label, _ in without_effect(config):
        group, _, key = label.rpartition(".")
        _, spec, _ = keys_of(GROUPS[group][1] if group else Config)[key]
        value = getattr(getattr(config, GROUPS[group][0]) if group else config, key)
        if key in LEFT_OUT | OPENING or spec.device or value == ():
            continue
        new = 0.9 if key == "max_t_range" else other_value(spec, value)  # at least the end of t_range
        changed += [f"--{label}", *(map(str, new) if isinstance(new, tuple) else [str(new)])]
    assert len(changed) > 50
    clouds = []
    for name, more in (("plain", []), ("changed", changed)):
        assert train.main([*plain, *more, "--model_path", str(tmp_path / name)]) == 0
        clouds.append((tmp_path / name / "point_cloud" / "iteration_3" / "point_cloud.ply").read_bytes())
    assert clouds[0] == clouds[1]


def test_it_is_one_line_at_the_start_and_in_a_dry_run(caplog, capsys, tmp_path):
    with caplog.at_level(logging.WARNING):
        assert (
            train.main(
                [
                    "--opt",
                    IDEAL,
                    "--delta_t",
                    "50",
                    "--xs_eta",
                    "0.1",
                    "--vram_O",
                    "--dry-run",
                    "--model_path",
                    str(tmp_path / "run"),
                ]
            )
            == 0
        )
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "settings without effect in this run: GuidanceParams.vram_O (GuidanceParams.guidance is ideal); "
        "GuidanceParams.delta_t, GuidanceParams.xs_eta (the distillation law does not use it (GuidanceParams.distillation, sds))"
    ]


def test_what_is_given_is_no_part_of_equality():
    config = load_config(TEXT)
    assert config == dataclasses.replace(config, given=frozenset({"seed"}))
    assert dict(without_effect(config))["CoGradParams.tau"] == "CoGradParams.enabled is false"
