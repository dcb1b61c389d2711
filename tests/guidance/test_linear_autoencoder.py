# SPDX-License-Identifier: Apache-2.0
"""LinearAutoencoder: principal components, white at zero, AutoencoderKL's interface, saved and loaded again."""

import pytest
import torch

from guidance.linear_autoencoder import LinearAutoencoder
from tests.drawn import Draws


def smooth_images(count: int = 6, size_px: int = 16) -> torch.Tensor:
    """Random pictures [B, 3, H, W] in [-1, 1] with large structure and a little grain."""
    draws = Draws(0)
    coarse = draws.uniform(count, 3, 4, 4) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=size_px, mode="bilinear")
    return (smooth + 0.05 * draws.normal(*smooth.shape)).clamp(-1, 1)


@pytest.fixture(scope="module")
def model() -> LinearAutoencoder:
    return LinearAutoencoder.fit(smooth_images(), latent_channels=12)


def test_latents_have_a_quarter_of_the_size_and_unit_mean_square(model):
    latents = model.encode(smooth_images()).latent_dist.mode()
    assert latents.shape == (6, 12, 4, 4)
    assert latents.square().mean().item() == pytest.approx(1, rel=1e-4)


def test_white_is_latent_zero_both_ways(model):
    white = torch.ones(1, 3, 8, 8)
    assert model.encode(white).latent_dist.mode().abs().max() < 1e-5
    assert (model.decode(torch.zeros(1, 12, 2, 2)).sample - white).abs().max() < 1e-6


def test_all_components_reconstruct_exactly_and_fewer_are_the_best_linear_fit():
    images = smooth_images()
    complete = LinearAutoencoder.fit(images, latent_channels=48)
    assert (complete(images).sample - images).abs().max() < 1e-4
    few = LinearAutoencoder.fit(images, latent_channels=5, whitening=1.0)
    residual = (few(images).sample - images).square().sum()
    patches = torch.nn.functional.unfold(images - 1, 4, stride=4).transpose(1, 2).reshape(-1, 48)
    dropped = torch.linalg.svdvals(patches)[5:].square().sum()  # Eckart-Young: what no linear code of 5 numbers keeps
    assert residual.item() == pytest.approx(dropped.item(), rel=1e-3)


def test_whitening_makes_components_equally_large():
    images = smooth_images()

    def spread(whitening: float) -> float:
        latents = LinearAutoencoder.fit(images, latent_channels=6, whitening=whitening).encode(images).latent_dist.mode()
        sizes = latents.square().mean(dim=(0, 2, 3))
        return (sizes.max() / sizes.min()).item()

    assert spread(1.0) == pytest.approx(1, rel=1e-3)
    assert spread(0.0) == pytest.approx(spread(0.5) ** 2, rel=1e-2)


def test_a_sample_differs_from_the_mean_by_rounding_and_draws_from_the_generator(model):
    posterior = model.encode(smooth_images()).latent_dist
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert (posterior.sample(generator) - posterior.mode()).abs().max() < 1e-5
    assert not torch.equal(generator.get_state(), before)


def test_encoding_is_differentiable_down_to_the_pixels(model):
    images = smooth_images(1).requires_grad_(True)
    model.encode(images).latent_dist.mode()[0, 0, 1, 2].backward()
    touched = images.grad.abs().sum(1)[0] > 0
    assert touched[4:8, 8:12].all() and touched.sum() == 16  # one latent sees its own patch and nothing else


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = LinearAutoencoder.from_pretrained(tmp_path)
    assert again.config.scaling_factor == model.config.scaling_factor == 0.35
    assert again.config._class_name == "LinearAutoencoder"
    assert 2 ** (len(again.config.block_out_channels) - 1) == 4
    images = smooth_images()
    assert torch.equal(again(images).sample, model(images).sample)


def test_a_picture_that_does_not_divide_into_patches_is_refused(model):
    with pytest.raises(ValueError, match=r"30 x 16 pixels; both sides must be multiples of 4"):
        model.encode(torch.zeros(1, 3, 16, 30))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"latent_channels is 49; patches of 4 pixels give at most 48"):
        LinearAutoencoder.fit(smooth_images(), latent_channels=49)
    with pytest.raises(ValueError, match=r"stands for patches of 4 pixels, but patch_px is 8"):
        LinearAutoencoder(patch_px=8)
