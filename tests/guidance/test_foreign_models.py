# SPDX-License-Identifier: Apache-2.0
"""Models of other families, and schedules that differ: taken for what they are, or refused in a sentence; never misread."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import GuidanceParams
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from utils.random_streams import RandomStreams

SCHEDULER, UNET, VAE, TEXT = "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"


@pytest.fixture
def folder(golden_dir, tmp_path):
    return Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model"))


def edit(folder, file, **changes):
    path = folder / file
    contents = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in contents.items() if value is not ...}))


def load(folder, **changes):
    return StableDiffusion(GuidanceParams(model_key=str(folder), text="a mug", **changes), "cpu")


REFUSED = {
    "a flow model": (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, r"its scheduler is FlowMatchEulerDiscreteScheduler, which is not one of noise"),
    "flow sigmas": (SCHEDULER, {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, r"its scheduler is UniPCMultistepScheduler, which is not one"),
    "an EDM model": (SCHEDULER, {"_class_name": "EDMDPMSolverMultistepScheduler"}, r"its scheduler is EDMDPM"),
    "another beta schedule": (SCHEDULER, {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}, r"its scheduler has beta_schedule 'sigmoid', expected one of linear, scaled_linear, squaredcos_cap_v2"),
    "a prediction of flow": (SCHEDULER, {"prediction_type": "flow_prediction"}, r"prediction_type is 'flow_prediction'; expected one of"),
    "an offset beyond the end": (SCHEDULER, {"steps_offset": 1000}, r"scheduler steps_offset is 1000; expected at least 0 and less than 1,000"),
    "a negative offset": (SCHEDULER, {"steps_offset": -1}, r"scheduler steps_offset is -1; expected at least 0"),
    "too few betas": (SCHEDULER, {"trained_betas": [0.1] * 10}, r"the scheduler has 10 trained_betas for 1,000 timesteps"),
    "betas that are none": (SCHEDULER, {"trained_betas": [0.1] * 999 + [1.5]}, r"the scheduler's betas are not all above 0 and at most 1"),
    "negative betas": (SCHEDULER, {"beta_schedule": "linear", "beta_start": -1.0}, r"the scheduler's betas are not all above 0"),
    "a video model": (UNET, {"_class_name": "UNetMotionModel"}, r"its unet is 'UNetMotionModel', not UNet2DConditionModel; only Stable Diffusion 1.x and 2.x"),
    "another text encoder": (TEXT, {"model_type": "t5"}, r"its text_encoder is 't5', not clip_text_model"),
    "a shifted autoencoder": (VAE, {"shift_factor": 0.1159}, r"the autoencoder's config has shift_factor, which Stable Diffusion 1.x and 2.x do not have"),
    "latents with a mean": (VAE, {"latents_mean": [0.0, 1.0, 2.0, 3.0]}, r"the autoencoder's config has latents_mean"),
    "SDXL": ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, r"is a StableDiffusionXLPipeline; only"),
    "SD3": ("model_index.json", {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "x"]}, r"is a StableDiffusion3Pipeline; only"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_misread_is_refused_in_a_sentence(folder, name):
    file, changes, sentence = REFUSED[name]
    edit(folder, file, **changes)
    with pytest.raises(ModelUnavailable, match=sentence) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def rebuilt(folder, **config):
    """The U-Net again with another config and random weights, saved as published ones are."""
    from diffusers import UNet2DConditionModel

    shape = {**json.loads((folder / UNET).read_text()), **config}
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(shape).save_pretrained(folder / "unet")


UNETS = {
    "inpainting": ({"in_channels": 9}, r"the U-Net takes 9 channels but the autoencoder makes 4; inpainting, upscaling and depth models"),
    "upscaling": ({"in_channels": 7}, r"the U-Net takes 7 channels"),
    "depth": ({"in_channels": 5}, r"the U-Net takes 5 channels"),
    "a learned variance": ({"out_channels": 8}, r"the U-Net makes 8 channels but the autoencoder takes 4; models that also predict a variance"),
    "consistency": ({"time_cond_proj_dim": 16}, r"has time_cond_proj_dim 16: it needs the guidance scale, as a latent consistency model does"),
    "unCLIP": ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}, r"has class_embed_type 'projection': it needs class labels"),
    "SDXL's sizes": ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}, r"has addition_embed_type 'text_time'"),
    "labels": ({"num_class_embeds": 10}, r"has num_class_embeds 10: it needs class labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_that_needs_more_than_latents_and_text(folder, name):
    config, sentence = UNETS[name]
    rebuilt(folder, **config)
    with pytest.raises(ModelUnavailable, match=sentence):
        load(folder)


def test_a_tokenizer_of_another_model(folder, golden_dir):
    tokenizer = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    first = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] |= {f"word{k}</w>": first + k for k in range(300)}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelUnavailable, match=r"the tokenizer has \d+ words but the text encoder \d+; the parts belong to different models"):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, part, value):
    [path] = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    name = next(key for key in sorted(tensors) if tensors[key].ndim == 2)
    tensors[name][0, 0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=rf"{part} weight \S*{name.removeprefix('text_model.')} is not finite in float32; fetch the model again$"):
        load(folder)


# --- what is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler", "LMSDiscreteScheduler", "LCMScheduler"])
def test_another_sampler_of_the_same_schedule(folder, golden_dir, cls):
    edit(folder, SCHEDULER, _class_name=cls)
    torch.testing.assert_close(load(folder).alphas_cumprod, load(golden_dir / "tiny-sd").alphas_cumprod)


def test_every_key_that_shapes_the_schedule_is_followed(folder):
    """Against the formulas: linear, scaled linear and trained betas, their ends and their number."""
    for changes, betas in (
        ({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}, np.linspace(1e-4, 0.02, 1000)),
        ({"beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.02}, np.linspace(1e-3**0.5, 0.02**0.5, 1000) ** 2),
        ({"trained_betas": [0.001 * k for k in range(1, 1001)]}, 0.001 * np.arange(1, 1001)),
        ({"num_train_timesteps": 500, "trained_betas": None, "beta_schedule": "linear"}, np.linspace(1e-3, 0.02, 500)),
    ):
        edit(folder, SCHEDULER, **changes)
        expected = np.cumprod(1 - betas)
        np.testing.assert_allclose(load(folder).alphas_cumprod.numpy(), np.maximum(expected, 2.0**-24), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_zero_terminal_snr_gives_finite_guidance_at_every_timestep(folder, kind):
    edit(folder, SCHEDULER, rescale_betas_zero_snr=True, prediction_type=kind, steps_offset=0)
    prior = load(folder, max_t_range=1.0)
    assert prior.alphas_cumprod[-1] == 2.0**-24 and prior.alphas_cumprod.min() > 0
    numbers = np.random.default_rng(0)
    images = [torch.from_numpy(numbers.random((1, c, 16, 16), dtype=np.float32)) for c in (3, 1, 1)]
    book = PromptEmbeddings(prior, GuidanceParams(text="a mug"))
    for ind_t in (999, 998, 0):
        params = GuidanceParams(text="a mug", sds=True)
        options = {"warm_up_rate": 0.0, "as_latent": False, "memory": NoiseMemory(), "ind_t": torch.tensor([ind_t])}
        out = distill_views(prior, *images, book.conditioning([0.0]), Loss(params), RandomStreams(0), **options)
        assert out.grad.isfinite().all()


@pytest.mark.parametrize("changes", [{"clip_sample": True}, {"thresholding": True}, {"timestep_spacing": "trailing"}, {"set_alpha_to_one": True}, {"use_karras_sigmas": True}])
def test_keys_of_sampling_alone_change_nothing(folder, golden_dir, changes):
    """Distillation draws no samples; LucidDreamer's steps clip nothing either."""
    plain = load(golden_dir / "tiny-sd")
    edit(folder, SCHEDULER, **changes)
    prior = load(folder)
    assert torch.equal(prior.alphas_cumprod, plain.alphas_cumprod)
    assert (prior.steps_offset, prior.prediction_type) == (plain.steps_offset, plain.prediction_type)


def test_the_scaling_factor_is_the_models(folder, golden_dir):
    edit(folder, VAE, scaling_factor=0.5)
    image = torch.full((1, 3, 16, 16), 0.3)
    ours, plain = load(folder), load(golden_dir / "tiny-sd")
    latents = [p.encode_imgs(image, torch.Generator().manual_seed(0)) / p.vae.config.scaling_factor for p in (ours, plain)]
    torch.testing.assert_close(*latents)
    assert ours.vae.config.scaling_factor == 0.5


def test_older_folders_without_newer_keys(folder, golden_dir):
    """Early uploads lack scaling_factor, prediction_type and steps_offset: the defaults of their time are theirs."""
    edit(folder, VAE, scaling_factor=...)
    edit(folder, SCHEDULER, prediction_type=..., steps_offset=...)
    prior = load(folder)
    assert prior.vae.config.scaling_factor == 0.18215
    assert (prior.prediction_type, prior.steps_offset) == ("epsilon", 0)
