# SPDX-License-Identifier: Apache-2.0
"""The estimate of a run's memory against real bytes, and what a user reads when it exceeds what is free."""

import dataclasses
import logging
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from arguments import Config
from arguments.load import load_config
from scene.dataset_readers import initial_vertices
from scene.gaussian_model import GaussianModel
from scene.ply import write_vertices
from tests.guidance.test_full_size import TEXTS, UNETS
from tests.live_bytes import LiveBytes
from trainer import memory_estimate
from trainer.memory_estimate import ModelSize, check_memory, estimate, remedy_of, savings
from utils.failures import MachineFailure, machine_failure
from utils.graphics_utils import BasicPointCloud

GB, CPU, GPU = 10**9, torch.device("cpu"), torch.device("cuda", 0)
IDEAL = ["--opt", "configs/quickstart.yaml"]
TINY_SD = "tests/data/golden/tiny-sd"
SD = ["--text", "a mug", "--guidance", "SD", "--model_key", TINY_SD, "--image_w", "256", "--image_h", "256"]


def config(*words: str) -> Config:
    return load_config(["--opt", "configs/prompt.yaml", "--device", "cpu", *words])


def refusing(*words: str) -> Config:
    return load_config([*words, "--memory_check", "refuse"])


def total(settings: Config, device: torch.device = CPU) -> int:
    return sum(estimate(settings, device, ModelSize.of(settings)).values())


@pytest.fixture
def ampere(monkeypatch) -> None:
    """A GPU that computes in half precision."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))


def test_weights_are_those_of_the_files(golden_dir) -> None:
    size = ModelSize.of(load_config(SD))
    for part, file in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        stored = load_file(golden_dir / "tiny-sd" / part / f"{file}.safetensors")
        assert getattr(size, part) == sum(weight.numel() for name, weight in stored.items() if "position_ids" not in name)


def test_a_model_that_is_not_on_this_machine_is_taken_for_stable_diffusion_2_1() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    channels, down, up = (128, 256, 512, 512), ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel(**UNETS["2.1"]),
            "vae": AutoencoderKL(block_out_channels=channels, down_block_types=down, up_block_types=up, layers_per_block=2),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXTS["2.1"])),
        }
    size = ModelSize.of(load_config([*SD, "--model_key", "some/model"]))
    for part, network in networks.items():
        assert getattr(size, part) == pytest.approx(sum(weight.numel() for weight in network.parameters()), rel=0.005)
    assert (size.unet_channels, size.vae_channels) == (networks["unet"].config.block_out_channels[0], channels[0])


def test_what_the_autoencoder_keeps_for_its_backward_pass() -> None:
    """ENCODE_KEPT against the tensors that torch saves, at 256 px."""
    from diffusers import AutoencoderKL

    down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=down, up_block_types=up, layers_per_block=2
        ).requires_grad_(False)
        image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    weights = {weight.untyped_storage()._cdata for weight in vae.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage()._cdata not in weights:
            kept[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        latents = vae.encode(image).latent_dist.mean
    values = sum(x.untyped_storage().nbytes() for x in kept.values()) / 4 / 128 / 256**2
    assert latents.requires_grad and values == pytest.approx(memory_estimate.ENCODE_KEPT, rel=0.1)


def test_a_tiny_autoencoder(tmp_path, ampere) -> None:
    """Its weights beside the others; it spares memory only where the model's own autoencoder never encodes."""
    from diffusers import AutoencoderTiny

    AutoencoderTiny().save_pretrained(tmp_path)
    words = ["--image_w", "512", "--image_h", "512", "--unet_batch", "1"]
    tiny = ["--tiny_vae", str(tmp_path), "--tiny_vae_until"]
    plain, half, whole = (total(config(*words, *more), GPU) for more in ([], [*tiny, "0.5"], [*tiny, "1"]))
    weights = sum(parameter.numel() for parameter in AutoencoderTiny().parameters())
    assert half - plain == pytest.approx(1.1 * 2 * weights, abs=2)
    assert plain - whole > 2 * GB
    with torch.device("meta"):
        network, image = AutoencoderTiny().requires_grad_(False), torch.empty(1, 3, 256, 256).requires_grad_()
    with LiveBytes([image, *network.parameters()]) as live:
        network.encode(image).latents.sum().backward()
    assert live.peak / 4 / 64 / 256**2 == pytest.approx(memory_estimate.TINY_ENCODE, rel=0.02)


def test_the_scene_takes_what_its_tensors_take() -> None:
    small = ["--init_num_pts", "1000", "--densify_until_iter", "0", "--sh_degree", "1", "--C_batch_size", "2"]
    model = GaussianModel(1)
    numbers = sum(p[0].numel() if p.ndim else 0 for p in (torch.zeros(1, *p.shape[1:]) for name, p in model.parameters_in_order().items() if name != "background"))
    parts = estimate(load_config([*IDEAL, *small, "--CoGradParams.enabled", "true", "--bank_limit_mb", "1000"]), CPU, None)
    assert parts["CoGrad's bank"] == int(1.1 * 180 * 4000 * numbers)  # a gradient a region
    assert parts["Gaussians"] == int(1.1 * (6 * 4000 * numbers + 1000 * 2 * 400))
    for off in (["--use_fusion", "false"], ["--bank_on_cpu", "true"]):
        assert "CoGrad's bank" not in estimate(load_config([*IDEAL, *small, "--CoGradParams.enabled", "true", *off]), CPU, None)


def test_points_of_a_file_and_those_grown_around_it_are_counted(tmp_path) -> None:
    """The file's own number, whatever init_num_pts says; candidates of growing while they are drawn."""
    cloud = BasicPointCloud(np.zeros((700, 3)), np.zeros((700, 3)), np.zeros((700, 3)))
    write_vertices(tmp_path / "start.ply", initial_vertices(cloud))
    words = ["--init_shape", "file", "--init_file", str(tmp_path / "start.ply"), "--init_num_pts", "9"]
    of_file = estimate(config(*words), CPU, None)
    assert of_file == estimate(config("--init_num_pts", "700"), CPU, None)
    grown = estimate(config(*words, "--init_grow", "10000000"), CPU, None)
    assert grown["initial points"] > of_file["initial points"] + GB
    assert any("init_grow" in way for way in savings(config(*words, "--init_grow", "50000000"), CPU))
    absent = config("--init_shape", "file", "--init_file", str(tmp_path / "absent.ply"))
    assert sum(estimate(absent, CPU, None).values()) > 0, "the start refuses the file by itself"


def test_growth_stops_at_max_points() -> None:
    few, many = (
        estimate(load_config(["--text", "x", "--init_num_pts", "100000", "--max_points", n]), CPU, None)
        for n in ("100000", "5000000")
    )
    assert many["Gaussians"] == pytest.approx(5 * few["Gaussians"], rel=1e-6)


def test_processes_share_the_views(monkeypatch) -> None:
    whole = estimate(config(), CPU, ModelSize())["rendered images"]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert estimate(config(), CPU, ModelSize())["rendered images"] == pytest.approx(whole / 2)  # two of four views


def test_each_saving_lowers_the_estimate(ampere) -> None:
    for words in ("--vram_O true", "--vae_slicing on", "--vae_checkpointing on", "--unet_batch 1", "--offload_unet true", "--perpneg false"):
        assert total(config(*words.split()), GPU) <= total(config(), GPU), words
    assert total(config("--vram_O", "true"), GPU) < total(config(), GPU)
    assert total(config("--keep_text_encoder", "true"), GPU) > total(config(), GPU)
    assert total(config("--controlnet_model_key", "a/b", "--use_control_net_iter", "1"), GPU) > total(config(), GPU)


def test_eight_gigabytes_are_enough_with_vram_O(ampere) -> None:
    """configs/prompt.yaml, four views of 512 x 512. A card of 8 GiB has about 8 GB left for a program."""
    assert total(config(), GPU) > 8 * GB > total(config("--vram_O", "true"), GPU)


def test_a_run_that_does_not_fit_is_reported_with_what_saves_most(ampere, caplog) -> None:
    check_memory(config(), GPU, 8 * GB)
    [line] = [record.getMessage() for record in caplog.records if record.name == "trainer.memory_estimate"]
    assert re.fullmatch(
        r"this run is estimated to need 13\.\d GB of cuda:0, which has 8\.0 GB free \(Gaussians .* GB, .*activations 7\.\d GB, workspace 0\.4 GB\); "
        r"set C_batch_size: 1 \(saves about 6\.\d GB\), vram_O: true \(saves about 6\.\d GB\), image_w: 256, image_h: 256 \(saves .*\)",
        line,
    ) or pytest.fail(line)
    with pytest.raises(ValueError, match=r"\), or GuidanceParams.memory_check: warn to try it as it is$"):
        check_memory(config("--memory_check", "refuse"), GPU, 8 * GB)


def test_the_check_can_warn_or_be_off(caplog) -> None:
    large = [*IDEAL, "--init_num_pts", "50000000", "--max_points", "50000000"]
    with caplog.at_level(logging.WARNING):
        check_memory(load_config([*large, "--memory_check", "off"]), CPU, GB)
        assert not caplog.records
        check_memory(load_config([*large, "--memory_check", "warn"]), CPU, GB)
    assert "estimated to need" in caplog.text and "memory_check" not in caplog.text
    for asked in ([], ["--memory_check", "refuse"]):
        with pytest.raises(ValueError, match="estimated to need"):
            check_memory(load_config([*large, *asked]), CPU, GB)


TOO_LARGE = {
    "--init_num_pts 50000000 --max_points 50000000": "init_num_pts: 25000000 (saves",
    "--image_w 8192 --image_h 8192": "set image_w: 4096, image_h: 4096 (saves",
    "--image_w 1024 --image_h 1024 --SSAA 8": "set image_w: 512, image_h: 512 (saves",
    "--view_px 8192 --image_w 16 --image_h 16": "set view_px: 4096 (saves",
    "--C_batch_size 90 --image_w 64 --image_h 64 --init_num_pts 1000000": "set C_batch_size: 1 (saves",
}


@pytest.mark.parametrize(("words", "remedy"), TOO_LARGE.items())
def test_a_run_that_does_not_fit_into_main_memory_is_refused_before_any_work(words, remedy, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trainer.memory_estimate.free_bytes", lambda device: 2 * GB)
    monkeypatch.setattr("trainer.state.TrainState.start", lambda *_, **__: pytest.fail("points were sampled"))
    argv = [*IDEAL, "--device", "cpu", *words.split(), "--model_path", str(tmp_path / "run")]
    assert train.main(argv) == 2
    told = capsys.readouterr().err
    assert "estimated to need" in told and "of cpu, which has 2.0 GB free" in told and remedy in told
    assert "GuidanceParams.memory_check: warn" in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("opt", ["quickstart", "fine", "quickstart_trained", "toy", "toy_trained"])
def test_the_toy_worlds_runs_fit_into_two_gigabytes_and_the_fine_one_into_three(opt) -> None:
    check_memory(refusing("--opt", opt), CPU, (3 if opt == "fine" else 2) * GB)


BANK = ["--CoGradParams.enabled", "true", "--init_num_pts", "100000", "--C_batch_size", "4"]


@pytest.mark.parametrize("words", [[*SD, *BANK], ["--text", "a red mug", "--guidance", "ideal", *BANK]], ids=["SD", "ideal"])
def test_the_largest_saving_comes_first(words) -> None:
    sizes = []
    for told in savings(load_config(words), CPU):
        number, unit = re.search(r"saves about ([\d.]+) ([GM]B)\)", told).groups()
        sizes.append(float(number) * (1000 if unit == "GB" else 1))
    assert len(sizes) > 1 and sizes == sorted(sizes, reverse=True) and min(sizes) > 0


@pytest.mark.parametrize("word", ["bank_on_cpu true", "C_batch_size 1", "vram_O true", "unet_batch 1"])
def test_what_is_set_already_is_not_advised(word, monkeypatch) -> None:
    monkeypatch.setattr(memory_estimate, "MOST_SAVINGS", 99)
    key, value = word.split()
    told = ", ".join(savings(load_config([*SD, *BANK, f"--{key}", value]), CPU))
    assert f"{key}: {value}" not in told and "init_num_pts: 50000" in told


def test_advice_that_cannot_be_estimated_is_still_advice(monkeypatch) -> None:
    def fails(*args: object) -> None:
        raise MemoryError

    told = remedy_of(MachineFailure(True, "x"), load_config([*SD, *BANK]))
    assert re.match(r"set (\w+: \w+(, \w+: \w+)? \(saves about [\d.]+ [GM]B\)(, )?)+$", told)
    monkeypatch.setattr(memory_estimate, "savings", fails)
    told = remedy_of(MachineFailure(True, "x"), load_config(SD))
    assert told == "set smaller image_w and image_h, or fewer init_num_pts"


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    failure = machine_failure(caught.value)
    assert failure is not None and failure.of_memory
    with pytest.raises(MemoryError) as caught_too:
        bytearray(1 << 60)
    assert machine_failure(caught_too.value) == MachineFailure(True, "MemoryError")


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory"), OSError(28, "No space left")])
def test_other_errors_are_not_of_the_machine(error) -> None:
    assert machine_failure(error) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_estimate_bounds_what_a_gpu_allocates(golden_dir) -> None:
    from guidance.sd_utils import StableDiffusion

    settings = load_config(["--text", "a mug", "--guidance", "SD", "--model_key", TINY_SD, "--image_w", "512", "--image_h", "512", "--C_batch_size", "4"])
    prior = StableDiffusion(settings.guidance, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    images = torch.zeros(4, 3, 512, 512, device="cuda", requires_grad=True)
    prior.encode_imgs(images).sum().backward()
    used = torch.cuda.max_memory_allocated() - before
    size = dataclasses.replace(ModelSize.of(settings), text_encoder=0)
    assert used < estimate(settings, GPU, size)["activations"] + 400e6
