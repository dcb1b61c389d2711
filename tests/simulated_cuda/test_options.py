# SPDX-License-Identifier: Apache-2.0
"""Every option of guidance, pipeline and CoGrad that changes what is computed, on the simulated GPU.

`make test` tries the first of each list; the rest is `make test-device`.
"""

from collections.abc import Iterable

import pytest
import torch

from arguments.exit_codes import FINISHED
from arguments.load import load_config
from distillation import LAWS
from tests.simulated_cuda.conftest import run, words_of
from trainer.priors import load_prior_and_prompts
from trainer.state import TrainState
from trainer.step import apply_update, compute_gradients

DIFFUSION = {
    "sds, half precision of a GPU": {"distillation": "sds"},
    "perpneg off": {"perpneg": "false"},
    "ism with inversion guided": {"denoise_guidance_scale": 3.0},
    "bfloat16": {"precision": "bfloat16", "distillation": "sds"},
    "float32": {"fp16": "false", "distillation": "sds"},
    "vram_O": {"vram_O": "true"},
    "offload_unet": {"offload_unet": "true", "distillation": "sds"},
    "unet_batch": {"unet_batch": 1, "distillation": "sds"},
    "attention math with recomputation": {"attention_kernel": "math", "vram_O": "true", "distillation": "sds"},
    "layouts": {"channels_last": "off", "fuse_qkv": "off", "distillation": "sds"},
    "text encoder kept": {"keep_text_encoder": "true", "distillation": "sds"},
    "disparity encoded": {"geo_iter": 99, "distillation": "sds"},
    "noise kept": {"fix_noise": "true", "distillation": "sds"},
    "weights": {"weighting": "sigma_squared", "front_bias": 0.3, "distillation": "sds"},
    "panels": {"vis_interval": 1, "distillation": "sds"},
    "deep features reused": {"unet_cache_interval": 2},
}
TRAINER = {
    "in Python": {"convert_SHs_python": "true", "compute_cov3D_python": "true", "sh_degree": 1, "sh_deg_aug_ratio": 0},
    "augmentations": {"sh_degree": 2, "sh_deg_aug_ratio": 1, "bg_aug_ratio": 1, "shs_aug_ratio": 1, "scale_aug_ratio": 1},
    "the baseline": {"enabled": "false", "jitter_pose": "true", "SSAA": 2},
    "bank on the CPU": {"fusion_range": "0.0,1.0", "max_step_share": 0.9, "azimuth_levels": 2, "elevation_levels": 1,
                        "max_t_difference": 1000, "bank_on_cpu": "true", "iterations": 6},
    "each tensor projected": {"fusion_range": "0.0,1.0", "max_step_share": 0.9, "azimuth_levels": 2, "elevation_levels": 1,
                              "max_t_difference": 1000, "projection": "group", "iterations": 6},
    "densified": {"densify_from_iter": 1, "densification_interval": 2, "densify_until_iter": 99, "opacity_reset_interval": 3,
                  "densify_grad_threshold": 0, "iterations": 5, "fusion_range": "0.0,1.0", "max_step_share": 0.9},
    "relocated": {"densifier": "mcmc", "mip_filter": "true", "densify_from_iter": 1, "densification_interval": 2, "densify_until_iter": 99,
                  "iterations": 5, "fusion_range": "0.0,1.0", "max_step_share": 0.9},
    "signs": {"densifier": "absgrad", "densify_from_iter": 1, "densification_interval": 2, "densify_until_iter": 99,
              "densify_grad_threshold": 0, "max_points": 300, "iterations": 5},
    "gated": {"densifier": "cadam", "densify_from_iter": 1, "densification_interval": 2, "densify_until_iter": 99,
              "densify_grad_threshold": 0, "max_points": 300, "iterations": 5},
    "outputs": {"save_video": "true", "save_process": "true", "render_45": "true", "pro_frames_num": 2},
    "anomalies": {"detect_anomaly": "true", "debug": "true"},
}  # fmt: skip


def later(cases: Iterable) -> list:
    """The first as it is, the others for `make test-device`."""
    first, *others = [pytest.param(*((case,) if isinstance(case, str) else case)) for case in dict.fromkeys(cases)]
    return [first, *(pytest.param(*case.values, marks=pytest.mark.device) for case in others)]


@pytest.mark.parametrize("name", later(DIFFUSION))
def test_a_diffusion_models_options(gpu, tmp_path, name):
    assert run("SD", tmp_path, **{"iterations": 1, "C_batch_size": 1} | DIFFUSION[name]) == FINISHED
    assert gpu.host_indices == {}


@pytest.mark.parametrize("name", later(TRAINER))
def test_the_trainers_options(gpu, tmp_path, name):
    assert run("ideal", tmp_path, **{"iterations": 2} | TRAINER[name]) == FINISHED
    assert gpu.host_indices == {}


@pytest.mark.parametrize(("prior", "law"), later([("SD", "vsd"), *((prior, law) for law in LAWS for prior in ("ideal", "SD"))]))
def test_every_law(gpu, tmp_path, prior, law):
    """On the trained prior VSD and ESD train their LoRA there."""
    assert run(prior, tmp_path, iterations=2, C_batch_size=1, distillation=law) == FINISHED
    assert gpu.host_indices == {}


@pytest.mark.device
@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_a_run_is_resumed_on_the_gpu(gpu, tmp_path, where):
    """With fusion, densification and the bank on either device; the second half as it would have been."""
    settings = {**TRAINER["bank on the CPU"], "bank_on_cpu": str(where == "cpu").lower(), "keep_checkpoints": 9}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run("ideal", whole, **settings, checkpoint_iterations=3) == FINISHED
    assert run("ideal", halves, **settings, start_checkpoint=whole / "chkpnt3.safetensors") == FINISHED
    clouds = [folder / "point_cloud/iteration_6/point_cloud.ply" for folder in (whole, halves)]
    assert clouds[0].read_bytes() == clouds[1].read_bytes()


def waits_of_a_step(gpu, folder, count: int, **settings) -> int:
    config = load_config(words_of("ideal", folder, init_num_pts=count, jitter_pose="false", **settings))
    state = TrainState.start(config, torch.device("cuda"))
    prior, prompts = load_prior_and_prompts(config, torch.device("cuda"))
    state.begin_cograd(config, prior.alphas_cumprod)
    gpu.waits.clear()
    step = compute_gradients(state, prior, prompts, config)
    apply_update(state, step, config)
    assert step.fault is None
    return sum(n for place, n in gpu.waits.items() if "toy/" not in place)  # the ideal prior's own are of its kind


@pytest.mark.parametrize("enabled", ["true", pytest.param("false", marks=pytest.mark.device)])
def test_a_steps_waits_do_not_grow_with_the_gaussians(gpu, tmp_path, enabled):
    """The table of losses and two sums; three draws and a norm a view of CoGrad, or without it six draws of a batch of
    cameras and upstream's one timestep.
    """
    few, many = (waits_of_a_step(gpu, tmp_path / str(n), n, enabled=enabled) for n in (60, 3000))
    assert few == many <= 1 + 2 + (3 + 2 if enabled == "true" else 6 + 1), gpu.waits
