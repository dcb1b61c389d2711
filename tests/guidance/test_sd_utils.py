# SPDX-License-Identifier: Apache-2.0
"""StableDiffusion behind the Prior protocol, on the tiny pipeline."""

import dataclasses
import json
import shutil

import pytest
import torch

from arguments import GuidanceParams
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from tests.drawn import Draws
from toy.prompt_words import in_known_words
from utils.random_streams import RandomStreams
from utils.shard import Shard


@pytest.fixture(scope="module")
def prior(golden_dir):
    return StableDiffusion(GuidanceParams(model_key=str(golden_dir / "tiny-sd"), fp16=True), "cpu")


def rand(*shape, seed=0):
    return Draws(seed).uniform(*shape)


def test_a_cpu_always_computes_in_single_precision(prior):
    assert {parameter.dtype for parameter in prior.unet.parameters()} == {torch.float32}


def test_weights_are_frozen_and_in_eval_mode(prior):
    for module in (prior.unet, prior.vae, prior.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_schedule_comes_from_the_model(prior, golden_dir):
    assert prior.alphas_cumprod.shape == (1000,)
    assert (prior.num_train_timesteps, prior.steps_offset) == (1000, 1)
    assert prior.timesteps_of(torch.tensor([0, 499, 999])).tolist() == [1, 500, 999]
    key = str(golden_dir / "tiny-sd")
    fewer = StableDiffusion(GuidanceParams(model_key=key, num_train_timesteps=100), "cpu")
    assert fewer.timesteps_of(torch.tensor([0, 99])).tolist() == [1, 991]
    with pytest.raises(ValueError, match=r"num_train_timesteps is 2000; this model has 1000, use at most that"):
        StableDiffusion(GuidanceParams(model_key=key, num_train_timesteps=2000), "cpu")


def test_shapes(prior):
    images = rand(2, 3, 64, 48)
    latents = prior.encode_imgs(images, torch.Generator().manual_seed(0))
    assert latents.shape == (2, 4, 8, 6)
    pictures = prior.decode_latents(latents)
    assert pictures.shape == images.shape
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert prior.get_text_embeds(["a", "b", "c"]).shape == (3, 77, 32)


def test_encoding_draws_from_the_given_stream_and_lets_the_gradient_through(prior):
    images = rand(1, 3, 32, 32).requires_grad_()
    generator = torch.Generator().manual_seed(7)
    latents = prior.encode_imgs(images, generator)
    posterior = prior.vae.encode(2 * images - 1).latent_dist
    draw = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(latents, (posterior.mean + posterior.std * draw) * 0.18215)
    latents.sum().backward()
    assert images.grad.abs().sum() > 0


def test_predictions_of_a_batch_are_those_of_its_rows(prior):
    x, t, text = rand(3, 4, 8, 8), torch.tensor([1, 500, 999]), prior.get_text_embeds(["a", "b", "c"])
    together = prior.predict_noise(x, t, text)
    assert not together.requires_grad
    for row in range(3):
        pick = slice(row, row + 1)
        torch.testing.assert_close(
            together[pick], prior.predict_noise(x[pick], t[pick], text[pick]), rtol=1e-4, atol=1e-5
        )


def test_v_prediction_is_turned_into_noise(prior, golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "tiny-sd", tmp_path / "v")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    v_prior = StableDiffusion(GuidanceParams(model_key=str(folder)), "cpu")
    x, t, text = rand(2, 4, 8, 8), torch.tensor([100, 900]), prior.get_text_embeds(["a", "b"])
    abar = prior.alphas_cumprod[t].view(-1, 1, 1, 1)
    expected = abar.sqrt() * prior.predict_noise(x, t, text) + (1 - abar).sqrt() * x
    torch.testing.assert_close(v_prior.predict_noise(x, t, text), expected)


def test_linear_autoencoder_is_loaded_by_its_name(golden_dir, tmp_path):
    from guidance.linear_autoencoder import LinearAutoencoder

    folder = shutil.copytree(golden_dir / "tiny-sd", tmp_path / "linear")
    shutil.rmtree(folder / "vae")
    images = rand(4, 3, 32, 32)
    autoencoder = LinearAutoencoder.fit(2 * images - 1, latent_channels=4)
    autoencoder.save_pretrained(folder / "vae")
    linear = StableDiffusion(GuidanceParams(model_key=str(folder)), "cpu")
    assert isinstance(linear.vae, LinearAutoencoder)
    latents = linear.encode_imgs(images, torch.Generator().manual_seed(0))
    expected = autoencoder.encode(2 * images - 1).latent_dist.mean * autoencoder.config.scaling_factor
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert linear.decode_latents(latents).shape == images.shape


def test_image_smaller_than_a_latent(prior):
    with pytest.raises(ValueError, match=r"image is 16x4 px; this model needs at least 8 px a side"):
        prior.encode_imgs(rand(1, 3, 4, 16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_stays_inside(golden_dir, prior):
    half = StableDiffusion(GuidanceParams(model_key=str(golden_dir / "tiny-sd"), fp16=True), "cuda")
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float16}
    x, t = rand(2, 4, 8, 8), torch.tensor([10, 700])
    text = prior.get_text_embeds(["a", "b"])
    eps = half.predict_noise(x.cuda(), t.cuda(), text.cuda())
    assert eps.dtype == torch.float32
    torch.testing.assert_close(eps.cpu(), prior.predict_noise(x, t, text), rtol=0.02, atol=0.02)


def test_words_outside_a_small_world_are_refused(golden_dir, tmp_path):
    folder = shutil.copytree(golden_dir / "tiny-sd", tmp_path / "small")
    (folder / "tokenizer" / "words.txt").write_text("a\nred\ncube\n")
    params = GuidanceParams(model_key=str(folder))
    small = StableDiffusion(params, "cpu", in_known_words)
    exact = small.get_text_embeds(["a red cube"])
    assert torch.equal(small.get_text_embeds(["The red cubes"]), small.get_text_embeds([" red cube"]))
    assert torch.equal(small.get_text_embeds(["A red box"]), exact)
    with pytest.raises(
        ValueError, match=r"does not know: 'zebra', 'blue'\. Known words: a, cube, red\. --allow_unknown"
    ):
        small.get_text_embeds(["a red zebra", "zebra, blue"])
    anything = StableDiffusion(dataclasses.replace(params, allow_unknown_words=True), "cpu", in_known_words)
    assert not torch.equal(anything.get_text_embeds(["a red zebra"]), exact)


@pytest.mark.parametrize("change", [{"perpneg": True}, {"perpneg": False, "fix_noise": True}, {"sds": True}])
def test_shares_of_the_views_are_distilled_as_the_whole(prior, change):
    """Two of three views and the third in another process: posterior, noise and timesteps drawn as for all three."""
    params = GuidanceParams(text="a mug", **change)
    rgb, depth, azimuth_deg = rand(3, 3, 32, 32), rand(3, 1, 32, 32), [10.0, -80.0, 170.0]
    book = PromptEmbeddings(prior, params)

    def run(shard):
        streams, memory = RandomStreams(3), NoiseMemory()
        inputs = (shard.of(x) for x in (rgb, depth, depth))
        conditioning = book.conditioning(shard.of(azimuth_deg))
        options = {"warm_up_rate": 0.5, "as_latent": False, "memory": memory, "shard": shard}
        return distill_views(prior, *inputs, conditioning, Loss(params), streams, **options), streams, memory

    whole, streams, memory = run(Shard.whole(3))
    for begin, end in ((0, 2), (2, 3)):
        part, part_streams, part_memory = run(Shard(3, begin, end))
        for name in ("latents", "grad", "loss_per_view", "ind_t"):
            got, want = (getattr(x, name).double() for x in (part, whole))
            assert float((got - want[begin:end]).norm()) <= 1e-3 * float(want.norm()), name
        assert torch.equal(part_streams.torch.get_state(), streams.torch.get_state())
        assert torch.equal(part_streams.noise.get_state(), streams.noise.get_state())
        assert part_memory.state_dict().keys() == memory.state_dict().keys()
        assert all(torch.equal(x, part_memory.state_dict()[name]) for name, x in memory.state_dict().items())
