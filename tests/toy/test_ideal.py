# SPDX-License-Identifier: Apache-2.0
"""The ideal prior against brute force in float64, and the laws of its embeddings."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from arguments import GuidanceParams
from guidance.sd_step import scaled_linear_alphas
from tests.drawn import Draws
from tests.live_bytes import LiveBytes
from toy.compose import compose
from toy.ideal import OFFSET_STD, SET_NAMES, IdealPrior
from toy.posterior import ImageTable, NoiseLevel, posterior_mean
from toy.raycast import View, render_gbuffers
from toy.rendered_set import PoseRanges
from toy.similarity import psnr

TEXT = "a cyan robot with orange arms"
SIZE_PX = 8


@pytest.fixture(scope="module")
def prior() -> IdealPrior:
    return IdealPrior(GuidanceParams(text=TEXT), "cpu", SIZE_PX, images=12)


def pictures_of(prior):
    """Images [n, 3, H, W] in float64."""
    return prior._table.weighted_sum(torch.eye(len(prior._table.sums))[:, None]).double().numpy()


def brute_force_mean(x, a, sigma, s, offset_std, images, log_prior):
    """E[z | x] in float64 with full covariance matrices: every image and every mirror image is one Gaussian."""
    pixels = x[0].size
    cov_x = (a**2 * s**2 + sigma**2) * np.eye(pixels) + sigma**2 * offset_std**2 * np.ones((pixels, pixels))
    logs, means = [], []
    for image, log_weight in zip(images, log_prior, strict=True):
        for shown in (image, image[:, :, ::-1]):
            residual = (x - a * shown).reshape(3, pixels)
            solved = np.linalg.solve(cov_x, residual.T).T
            logs.append(log_weight - 0.5 * (residual * solved).sum())
            means.append(shown + a * s**2 * solved.reshape(x.shape))
    weights = np.exp(np.array(logs) - max(logs))
    return np.tensordot(weights / weights.sum(), np.stack(means), axes=1)


@pytest.mark.parametrize("width", [6, 7])
def test_an_even_and_an_odd_part_stand_for_an_image_and_its_mirror_image(width):
    """The products of half the size are those of the whole images; largest difference seen 2e-6, bound 1e-5."""
    draws = Draws(4)
    images, x = draws.normal(5, 3, 4, width), draws.normal(2, 3, 4, width)
    images[:, :, :2] = 1.0  # two rows that all share,
    images[2, :, 0, -1] = 0.5  # but for the right end of one image,
    images[:, :, 1, 0] = 2.0  # and the left end of every image, which its mirror image has at the right
    differs = torch.ones(4, width, dtype=torch.bool)
    differs[:2, 1:-1] = False
    table = ImageTable.build(images)
    seen = images[:, :, differs].flatten(1)
    for got, side in zip(table.inner(x), (x, x.flip(-1)), strict=True):
        torch.testing.assert_close(got, side[:, :, differs].flatten(1) @ seen.T, rtol=0, atol=1e-5)
    weights = draws.normal(3, 2, 5)
    expected = torch.einsum("rsn,snchw->rchw", weights, torch.stack([images, images.flip(-1)]))
    torch.testing.assert_close(table.weighted_sum(weights), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(table.squares, seen.square().sum(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [20, 400, 980])
def test_posterior_mean_is_brute_force_bayes(prior, t):
    """Largest difference seen over all cases: 4e-7 of [-1, 1] units (float32 inner products); bound 2e-5."""
    rng = np.random.default_rng(t)
    table = prior._table
    images = pictures_of(prior)
    abar = float(scaled_linear_alphas()[t].float())
    a, sigma = abar**0.5, (1 - abar) ** 0.5 * SIZE_PX / 32
    clean = images[5]
    noise = rng.normal(size=clean.shape) + OFFSET_STD * rng.normal(size=(3, 1, 1))
    x = a * (clean + 0.15 * rng.normal(size=clean.shape)) + sigma * noise
    log_prior = np.log(rng.dirichlet(np.ones(len(images))))
    expected = brute_force_mean(x, a, sigma, 0.15, OFFSET_STD, images, log_prior)
    level = NoiseLevel(torch.tensor([a]).float(), torch.tensor([sigma]).float(), 0.15, OFFSET_STD)
    got = posterior_mean(torch.tensor(x[None]).float(), level, table, torch.tensor(log_prior[None]).float())
    np.testing.assert_allclose(got[0].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("t", [400, 980])
def test_predicted_noise_is_brute_force_bayes(prior, t):
    """Eq. (3) by the posterior mean of the clean image; float32 against float64."""
    x = np.random.default_rng(t).normal(size=(3, SIZE_PX, SIZE_PX))
    embeddings = prior.get_text_embeds([TEXT])
    abar, scale = float(prior.alphas_cumprod[t]), 32 / SIZE_PX
    a, sigma = abar**0.5, (1 - abar) ** 0.5
    with np.errstate(divide="ignore"):
        log_prior = np.log((embeddings[0] @ prior._members)[0].double().numpy())
    clean = scale * brute_force_mean(x / scale, a, sigma / scale, 0.15, OFFSET_STD, pictures_of(prior), log_prior)
    got = prior.predict_noise(torch.tensor(x[None]).float(), torch.tensor([t]), embeddings)
    np.testing.assert_allclose(got[0].numpy(), (x - a * clean) / sigma, atol=1e-4)


@pytest.mark.parametrize("text, overlap_deg", [(TEXT, 15), ("a red cube with white dots", 0), ("a blue sphere", 15)])
def test_sets_of_two_words_overlap_where_sides_are_not_alike(text, overlap_deg):
    prior = IdealPrior(GuidanceParams(text=text), "cpu", SIZE_PX, images=48)
    member = dict(zip(SET_NAMES, prior._members.numpy() > 0))
    for first, second, border_deg in (("front", "side", 45), ("side", "back", 135)):
        between = np.abs(prior.azimuth_deg - border_deg) <= overlap_deg
        np.testing.assert_array_equal(member[first] & member[second], between)
        assert between.any() == (overlap_deg > 0)
    assert (member["front"] | member["side"] | member["back"]).all()


def test_a_blend_of_embeddings_is_the_mixture_of_the_sets(prior):
    """Upstream blends embeddings linearly: here that must be Bayes' rule for the mixture of the two sets' images."""
    front, back = prior.get_text_embeds([f"{TEXT}, front view", f"{TEXT}, back view"])
    azimuth = prior.azimuth_deg
    density = 0.3 * (azimuth <= 60) / (azimuth <= 60).sum() + 0.7 * (azimuth >= 120) / (azimuth >= 120).sum()
    x = Draws(0).normal(1, 3, SIZE_PX, SIZE_PX)
    t, abar = torch.tensor([600]), float(prior.alphas_cumprod[600])
    a, sigma = abar**0.5, (1 - abar) ** 0.5 / prior.scale
    images = pictures_of(prior)
    with np.errstate(divide="ignore"):
        log_prior = np.log(density)
    clean = brute_force_mean(x[0].double().numpy() / prior.scale, a, sigma, 0.15, OFFSET_STD, images, log_prior)
    expected = (x[0].numpy() - a * clean * prior.scale) / (1 - abar) ** 0.5
    got = prior.predict_noise(x, t, (0.3 * front + 0.7 * back)[None])[0].numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_each_row_has_its_own_timestep_and_embedding(prior):
    rows = prior.get_text_embeds([f"{TEXT}, front view", f"{TEXT}, side view", ""])
    x = Draws(1).normal(3, 3, SIZE_PX, SIZE_PX)
    t = torch.tensor([50, 500, 900])
    together = prior.predict_noise(x, t, rows)
    alone = torch.cat([prior.predict_noise(x[k : k + 1], t[k : k + 1], rows[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texts", [2, 3])
def test_texts_of_one_call_share_what_depends_on_the_rows_alone(prior, texts, monkeypatch):
    """Each text's predictions are those of a call of its own; the images are compared with each row once."""
    seen, inner = [], ImageTable.inner
    monkeypatch.setattr(ImageTable, "inner", lambda table, x: seen.append(len(x)) or inner(table, x))
    x, t = Draws(9).normal(2, 3, SIZE_PX, SIZE_PX), torch.tensor([300, 800])
    rows = prior.get_text_embeds([f"{TEXT}, front view", "", f"{TEXT}, back view"])[:texts]
    together = prior.predict_noise(x.repeat(texts, 1, 1, 1), t.repeat(texts), rows.repeat_interleave(2, 0))
    alone = torch.cat([prior.predict_noise(x, t, row.repeat(2, 1, 1)) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert seen == [2] * (1 + texts)
    prior.predict_noise(x.repeat(2, 1, 1, 1), torch.tensor([300, 800, 300, 801]), rows[:1].repeat(4, 1, 1))
    assert seen[-1] == 4


def test_low_noise_returns_the_picture_and_the_gradient_points_to_it(prior):
    """From an image that was dimmed, the SDS direction -(eps_hat - eps) leads back towards the image."""
    clean = torch.from_numpy(pictures_of(prior)[7]).float()[None] * prior.scale
    dimmed = clean - 0.25 * prior.scale
    noise = Draws(2).normal(*clean.shape)
    t = torch.tensor([150])
    a, sigma = prior.alphas_cumprod[t].sqrt(), (1 - prior.alphas_cumprod[t]).sqrt()
    embedding = prior.get_text_embeds([TEXT])
    step = -(prior.predict_noise(a * dimmed + sigma * noise, t, embedding) - noise)
    towards = clean - dimmed
    cosine = torch.nn.functional.cosine_similarity(step.flatten(), towards.flatten(), dim=0)
    assert cosine > 0.3


def test_view_words_choose_the_images(prior):
    """At t = 980 little of x is left: the prediction is close to the mean of the set that the view word names."""
    rows = prior.get_text_embeds([f"{TEXT}, front view", f"{TEXT}, back view"])
    assert (rows[0] != rows[1]).any()
    x = Draws(3).normal(1, 3, SIZE_PX, SIZE_PX).repeat(2, 1, 1, 1)
    eps = prior.predict_noise(x, torch.tensor([980, 980]), rows)
    assert (eps[0] - eps[1]).abs().max() > 1e-3


def test_encode_and_decode_are_inverse_and_differentiable(prior):
    images = Draws(4).uniform(2, 3, SIZE_PX, SIZE_PX).requires_grad_()
    latents = prior.encode_imgs(images)
    torch.testing.assert_close(prior.decode_latents(latents), images)
    latents.sum().backward()
    torch.testing.assert_close(images.grad, torch.full_like(images, 2 * 32 / SIZE_PX))


def test_pictures_of_another_size_are_refused(prior):
    with pytest.raises(ValueError, match=r"8 x 8 px but got 16 x 16.*image_w"):
        prior.encode_imgs(torch.zeros(1, 3, 16, 16))


def test_an_unknown_prompt_is_refused_or_mixed_where_that_is_allowed():
    params = GuidanceParams(text="a baroque cathedral")
    with pytest.raises(ValueError, match=r"names no object of the toy world.*'baroque'.*snowman.*purple"):
        IdealPrior(params, "cpu", 8, images=15)
    assert len(IdealPrior(dataclasses.replace(params, allow_unknown_words=True), "cpu", 8, images=15).specs) == 15


def test_the_setting_says_how_many_images_are_rendered():
    """Of each of fifteen objects, where a prompt has none of its own, at least eight."""
    params = GuidanceParams(text=TEXT, ideal_images=20)
    assert len(IdealPrior(params, "cpu", 8).azimuth_deg) == 20 == len(IdealPrior(params, "cpu", 8, images=20).azimuth_deg)
    mixed = dataclasses.replace(params, text="a baroque cathedral", allow_unknown_words=True)
    assert len(IdealPrior(mixed, "cpu", 8).azimuth_deg) == 8 * 15


def test_with_more_images_the_nearest_is_fewer_degrees_off():
    """What configs/fine.yaml is about: at little noise the prediction is the nearest image; PSNR of six poses between
    those that are rendered rises by 4 dB or more with four times as many images (6.4 dB seen)."""
    views = [View(theta_deg, phi_deg, 3.5, 0.36) for theta_deg, phi_deg in itertools.product((60.0, 85.0), (21.0, 77.0, 143.0))]
    found = []
    for images in (60, 240):
        prior = IdealPrior(GuidanceParams(text=TEXT, ideal_images=images), "cpu", 32)
        (spec,) = prior.specs
        truth = compose(render_gbuffers(spec.class_name, views, 32), spec.rgb_a(), spec.rgb_b(), (1, 1, 1))
        t, clean = torch.full((6,), 200), prior.encode_imgs(torch.from_numpy(truth))
        a, sigma = prior.alphas_cumprod[200].sqrt(), (1 - prior.alphas_cumprod[200]).sqrt()
        x_t = a * clean + sigma * Draws(3).normal(6, 3, 32, 32)
        eps = prior.predict_noise(x_t, t, prior.get_text_embeds([TEXT]).expand(6, -1, -1))
        predicted = prior.decode_latents((x_t - sigma * eps) / a)
        found.append(np.mean([psnr(one.numpy(), other) for one, other in zip(predicted, truth)]))
    assert found[1] - found[0] > 4.0, found


@pytest.fixture(scope="module")
def broad() -> IdealPrior:
    return IdealPrior(GuidanceParams(text=TEXT, ideal_uncond="all"), "cpu", 16, images=48)


def test_images_of_all_objects_change_the_unconditional_prediction_only(broad):
    narrow = IdealPrior(GuidanceParams(text=TEXT), "cpu", 16, images=48)
    rows = [broad.get_text_embeds([text]) for text in (TEXT, f"{TEXT}, front view", "")]
    x, t = Draws(7).normal(1, 3, 16, 16), torch.tensor([500])
    own, front, uncond = (broad.predict_noise(x, t, row) - narrow.predict_noise(x, t, row) for row in rows)
    assert own.abs().max() < 2e-4 and front.abs().max() < 2e-4  # the tables round apart: 1.7e-5 seen
    assert uncond.abs().max() > 1e-2
    assert broad._members.sum(1).numpy() == pytest.approx(np.ones(5), abs=1e-5)
    own_share = float(broad._members[-1, : len(broad.azimuth_deg)].sum())
    assert own_share == pytest.approx(1 / 15, abs=1e-5), "one object of fifteen is the prompt's"


def test_with_images_of_all_objects_cond_minus_uncond_is_a_classifiers_score(broad):
    """From the image of any other object, -(e_c - e_u) alone leads towards images of the prompt's object."""
    cond, uncond = broad.get_text_embeds([TEXT]), broad.get_text_embeds([""])
    t, own = torch.tensor([700]), len(broad.azimuth_deg)
    a, sigma = broad.alphas_cumprod[t].sqrt(), (1 - broad.alphas_cumprod[t]).sqrt()
    images = torch.from_numpy(pictures_of(broad)).float() * broad.scale
    towards = images[:own].mean(0) - images[own:]  # [m, 3, 16, 16]
    cosines = []
    for k in range(0, len(towards), 40):
        x = a * images[own + k : own + k + 1] + sigma * Draws(k).normal(1, 3, 16, 16)
        score = -(broad.predict_noise(x, t, cond) - broad.predict_noise(x, t, uncond))
        cosines.append(float(torch.nn.functional.cosine_similarity(score.flatten(), towards[k].flatten(), dim=0)))
    assert len(cosines) == 12 and np.mean(cosines) > 0.25, cosines


def test_schedule_is_stable_diffusions(prior):
    """Values of the published schedule: alphas_cumprod[0] = 1 - 0.00085, [999] = 0.0047 (rounded)."""
    abar = prior.alphas_cumprod
    assert float(abar[0]) == pytest.approx(0.99915, abs=1e-6)
    assert float(abar[999]) == pytest.approx(0.004660, abs=1e-5)
    assert prior.timesteps_of(torch.tensor([0, 998, 999])).tolist() == [1, 999, 999]


def test_camera_ranges_reach_the_rendered_set():
    from arguments import GenerateCamParams
    from toy.ideal import pose_ranges

    ranges = pose_ranges(GenerateCamParams())
    assert isinstance(ranges, PoseRanges)
    assert ranges.radius == (3.5, 5.5) and ranges.fov_rad == (0.16, 0.6) and ranges.theta_deg == (45, 105)


def test_the_table_is_built_in_the_room_of_the_images_again() -> None:
    """Its even and odd parts, and a few images at a time: 1.27 copies were measured, 2.0 when all were taken at once."""
    images = torch.from_numpy(np.random.RandomState(0).rand(480, 3, 32, 32).astype(np.float32))
    with LiveBytes([images]) as live:
        ImageTable.build(images)
    assert live.peak < 1.5 * images.nbytes
