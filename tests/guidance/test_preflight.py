# SPDX-License-Identifier: Apache-2.0
"""The estimate of memory against real bytes, of the tiny pipeline and of Stable Diffusion 2.1; and what a user reads."""

import dataclasses
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import GuidanceParams
from arguments.load import load_config
from guidance.footprint import footprint, measure
from guidance.preflight import check_memory, needed
from guidance.run_size import RunSize
from guidance.sd_utils import StableDiffusion
from scene.gaussian_model import GaussianModel
from tests.guidance.test_full_size import TEXTS, UNETS
from tests.guidance.test_single_file import original_layout

GB, CPU, GPU = 10**9, torch.device("cpu"), torch.device("cuda", 0)


def config(*words):
    return load_config(["--opt", "configs/prompt.yaml", "--device", "cpu", *words])


def shapes_of_sd21(folder):
    """Stable Diffusion 2.1 base as its configs tell it, without weights."""
    parts = {
        "unet": UNETS["2.1"],
        "vae": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
        },
        "text_encoder": {"model_type": "clip_text_model", **TEXTS["2.1"]},
    }
    for part, contents in parts.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(contents))
    return folder


@pytest.fixture(scope="module")
def sd21(tmp_path_factory):
    return shapes_of_sd21(tmp_path_factory.mktemp("sd21"))


@pytest.fixture(scope="module")
def model(sd21):
    return footprint(sd21, torch.float16, (512, 512))


@pytest.fixture
def ampere(monkeypatch, model):
    """A GPU that computes in half precision, and the model's footprint, which takes a second, from before."""
    monkeypatch.setattr("guidance.preflight.footprint", lambda folder, dtype, size_px, with_controlnet: model)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def test_weights_are_those_of_the_files(golden_dir):
    folder = golden_dir / "tiny-sd"
    model = footprint(folder, torch.float32, (64, 64))
    for part, file in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        stored = sum(x.numel() * 4 for x in load_file(folder / part / f"{file}.safetensors").values())
        assert getattr(model, part) - stored in (0, 77 * 8)  # position_ids, a buffer that is not stored


def test_activations_are_those_of_the_loaded_networks(golden_dir):
    """The same bytes counted while the tiny pipeline computes for real. Its own attention writes a little more."""
    prior = StableDiffusion(GuidanceParams(model_key=str(golden_dir / "tiny-sd")), "cpu")
    real = measure(prior.unet, prior.vae, prior.text_encoder, None, (64, 64))
    model = footprint(golden_dir / "tiny-sd", torch.float32, (64, 64))
    for field in dataclasses.fields(model):
        assert getattr(model, field.name) == pytest.approx(getattr(real, field.name), rel=0.02), field.name


def test_full_size_weights(sd21):
    """Published sizes of stable-diffusion-2-1-base: 865.9, 83.7 and 340.4 million weights."""
    model = footprint(sd21, torch.float16, (64, 64), with_controlnet=True)
    millions = {part: getattr(model, part) / 2e6 for part in ("unet", "vae", "text_encoder", "controlnet")}
    assert millions == pytest.approx({"unet": 865.9, "vae": 83.7, "text_encoder": 340.4, "controlnet": 364.2}, rel=1e-3)


def test_activations_grow_with_the_picture(sd21, model):
    small, large = footprint(sd21, torch.float16, (256, 256)), model
    for name in ("unet_sample", "encode_kept", "encode_peak", "decode"):
        assert getattr(large, name) == pytest.approx(4 * getattr(small, name), rel=0.02)
    assert large.encode_kept_recomputed < 0.1 * large.encode_kept
    assert large.encode_peak_recomputed < 0.7 * large.encode_peak


def test_the_scene_takes_what_its_tensors_take():
    settings = ["--init_num_pts", "1000", "--densify_until_iter", "0", "--sh_degree", "1", "--C_batch_size", "2"]
    run = RunSize.of(config(*settings, "--bank_limit_mb", "1"))
    model = GaussianModel(1)
    numbers = sum(torch.zeros(p.shape[1:]).numel() for name, p in model.parameters_in_order().items() if name != "background")
    assert run.gaussians == 1000 and run.gradient_bytes == 4000 * numbers
    assert run.bank_bytes == 10**6
    assert RunSize.of(config(*settings)).bank_bytes == 180 * run.gradient_bytes  # a gradient a region
    for off in (["--CoGradParams.enabled", "false"], ["--use_fusion", "false"], ["--bank_on_cpu", "true"]):
        assert RunSize.of(config(*settings, *off)).bank_bytes == 0


def test_processes_share_the_views(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    run = RunSize.of(config())
    assert (run.views, run.all_views) == (2, 4)


def test_each_saving_lowers_the_estimate(model, ampere):
    run, params = RunSize.of(config()), config().guidance
    full = sum(needed(model, params, run, GPU).values())
    for change in ({"vram_O": True}, {"vae_slicing": "on"}, {"unet_batch": 1}, {"offload_unet": True}):
        assert sum(needed(model, dataclasses.replace(params, **change), run, GPU).values()) < full, change
    more = dataclasses.replace(params, keep_text_encoder=True)
    assert sum(needed(model, more, run, GPU).values()) > full


def test_eight_gigabytes_are_enough_with_vram_O(sd21, ampere):
    """configs/prompt.yaml, four views of 512 x 512. A card of 8 GiB has about 8 GB left for a program."""
    params = dataclasses.replace(config().guidance, vram_O=True)
    check_memory(sd21, params, RunSize.of(config()), GPU, 8 * GB)


def test_a_run_that_does_not_fit_is_refused_with_what_would_fit(sd21, ampere):
    run, params = RunSize.of(config()), config().guidance
    with pytest.raises(
        ValueError,
        match=r"^this run is estimated to need 12\.\d GB of cuda:0, which has 8.0 GB free \(weights 2\.\d GB, activations 7\.\d GB, Gaussians 1\.\d GB, "
        r"CoGrad's bank 1\.5 GB, workspace 0\.4 GB\); set vram_O: true for about 6\.\d GB, or GuidanceParams.memory_check: warn to try it as it is$",
    ):
        check_memory(sd21, params, run, GPU, 8 * GB)
    with pytest.raises(ValueError, match=r"set vram_O: true, bank_on_cpu: true for about 4\.\d GB"):
        check_memory(sd21, params, run, GPU, 5 * GB)
    with pytest.raises(ValueError, match=r"offload_unet: true, C_batch_size: 1 would bring it to .* so use a smaller image_w and image_h"):
        check_memory(sd21, params, run, GPU, GB)
    least = dataclasses.replace(params, vram_O=True, unet_batch=1, vae_slicing="on", vae_checkpointing="on", offload_unet=True)
    with pytest.raises(ValueError, match=r"every saving is in use, so use a smaller image_w"):
        check_memory(sd21, least, dataclasses.replace(run, regions=0, views=1, all_views=1), GPU, GB)


def test_the_check_can_warn_or_be_off(sd21, ampere, caplog):
    run, params = RunSize.of(config()), config().guidance
    with caplog.at_level(logging.WARNING, logger="guidance.preflight"):
        check_memory(sd21, dataclasses.replace(params, memory_check="off"), run, GPU, GB)
        assert not caplog.records
        check_memory(sd21, dataclasses.replace(params, memory_check="warn"), run, GPU, 8 * GB)
    assert "which has 8.0 GB free" in caplog.text and "memory_check" not in caplog.text


def test_too_little_memory_is_told_before_weights_are_read(golden_dir, monkeypatch):
    monkeypatch.setattr("guidance.preflight.free_bytes", lambda device: 1000)
    monkeypatch.setattr("guidance.weights.load_part", lambda *_, **__: pytest.fail("weights were read"))
    params = GuidanceParams(model_key=str(golden_dir / "tiny-sd"))
    with pytest.raises(ValueError, match=r"estimated to need .* of cpu, which has 0.0 MB free"):
        StableDiffusion(params, "cpu", RunSize.of(config("--image_w", "64", "--image_h", "64")))


def test_a_single_file_is_checked_by_its_base_models_configs(golden_dir, tmp_path, monkeypatch):
    folder = golden_dir / "tiny-sd"
    save_file(original_layout(folder), tmp_path / "x.safetensors")
    monkeypatch.setattr("guidance.preflight.free_bytes", lambda device: 1000)
    params = GuidanceParams(model_key=str(tmp_path / "x.safetensors"), base_model_key=str(folder))
    with pytest.raises(ValueError, match=r"estimated to need .* of cpu, which has 0.0 MB free"):
        StableDiffusion(params, "cpu", RunSize.of(config("--image_w", "64", "--image_h", "64")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_estimate_bounds_what_a_gpu_allocates(golden_dir):
    params = GuidanceParams(model_key=str(golden_dir / "tiny-sd"))
    prior = StableDiffusion(params, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    images = torch.rand(4, 3, 512, 512, device="cuda", requires_grad=True)
    prior.encode_imgs(images).sum().backward()
    used = torch.cuda.max_memory_allocated() - before
    estimate = 4 * footprint(golden_dir / "tiny-sd", torch.float16, (512, 512)).encode_peak
    assert 0.5 * used < estimate * 1.1 + 400e6 and estimate < 2 * used
