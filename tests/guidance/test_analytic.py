# SPDX-License-Identifier: Apache-2.0
"""The exact denoiser, and the guidance checked on it against closed forms, in float64.

For one Gaussian N(mu, s^2) everything is linear in the deviation d = x_t - sqrt(abar) mu, with v = abar s^2 + 1 - abar:
    eps = sqrt(1 - abar) d / v,      DDIM step: d' = d (sqrt(abar' abar) s^2 + sqrt((1 - abar')(1 - abar))) / v.
"""

import dataclasses
from itertools import pairwise

import pytest
import torch

from arguments import GuidanceParams
from guidance import sd_step
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior, mixture_eps
from utils.random_streams import RandomStreams

STD = 0.4
PARAMS = GuidanceParams(text="x", perpneg=False, lambda_guidance=1.0, guidance_scale=7.5)


def randn(*shape, seed=0):
    return Draws(seed, torch.float64).normal(*shape)


@pytest.fixture
def one_gaussian():
    return GaussianMixturePrior(randn(1, 3, 4, 4, seed=5), STD)


def conditioning(prior, views, params=PARAMS):
    return PromptEmbeddings(prior, params).conditioning([0.0] * views)


def inverted(prior, latents, noise, indices, delta):
    """ISM's inversion: x_t, and the prediction of its last step."""
    residual = Loss(dataclasses.replace(PARAMS, delta_t=delta, annealing_intervals=False))(
        prior, latents, noise, torch.tensor(indices), conditioning(prior, len(latents))
    )
    return residual.x_t, residual.target


def spread(abar):
    return abar * STD**2 + 1 - abar


@pytest.mark.parametrize("rows_of_weights", [False, True])
def test_mixture_eps_is_the_gradient_of_the_log_density(rows_of_weights):
    x, means = randn(5, 6, seed=1).requires_grad_(), randn(4, 6, seed=2)
    log_weights = randn(5, 4, seed=3) if rows_of_weights else randn(4, seed=3)
    abar = Draws(4, torch.float64).uniform(5)
    gaps = (x[:, None] - abar.sqrt()[:, None, None] * means).square().sum(-1)
    log_p = torch.logsumexp(log_weights - gaps / (2 * spread(abar)[:, None]), dim=1)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    eps = mixture_eps(x.detach(), abar, means, log_weights, STD)
    torch.testing.assert_close(eps, -(1 - abar).sqrt()[:, None] * score, rtol=0, atol=1e-12)


def test_mixture_eps_survives_far_points_and_switched_off_components():
    means = torch.stack([torch.zeros(8), torch.full((8,), 100.0)])
    log_weights = torch.tensor([0.0, -torch.inf])
    eps = mixture_eps(torch.full((1, 8), 100.0), torch.tensor([0.999]), means, log_weights, 0.0)
    expected = 100.0 / (1 - 0.999) ** 0.5
    torch.testing.assert_close(eps, torch.full((1, 8), expected), rtol=1e-3, atol=0)


def test_ddim_inversion_of_one_gaussian_is_linear(one_gaussian):
    prior, latents, noise = one_gaussian, randn(2, 3, 4, 4, seed=6), randn(2, 3, 4, 4, seed=7)
    ind_t = torch.tensor([700, 333])
    x_t, target = inverted(prior, latents, noise, ind_t.tolist(), 80)
    for view, last in enumerate(ind_t.tolist()):
        path = [k + 1 for k in sd_step.inversion_path(last, 80, PARAMS.xs_delta_t, PARAMS.xs_inv_steps)]
        abar = prior.alphas_cumprod[path]
        deviation = abar[0].sqrt() * (latents[view] - prior.means[0]) + (1 - abar[0]).sqrt() * noise[view]
        for a, b in pairwise(abar):
            expected_target = (1 - a).sqrt() * deviation / spread(a)
            deviation = deviation * ((a * b).sqrt() * STD**2 + ((1 - a) * (1 - b)).sqrt()) / spread(a)
        assert (target[view] - expected_target).abs().max() < 1e-6
        assert (x_t[view] - abar[-1].sqrt() * prior.means[0] - deviation).abs().max() < 1e-6


@pytest.mark.parametrize("sds", [True, False])
def test_residual_of_one_gaussian_is_the_closed_form(one_gaussian, sds):
    prior, latents, noise = one_gaussian, randn(2, 3, 4, 4, seed=8), randn(2, 3, 4, 4, seed=9)
    params, ind_t = dataclasses.replace(PARAMS, sds=sds), torch.tensor([250, 600])
    residual = Loss(params)(prior, latents, noise, ind_t, conditioning(prior, 2))
    abar = prior.alphas_cumprod[ind_t + 1].view(-1, 1, 1, 1)
    if sds:
        x_t, target = abar.sqrt() * latents + (1 - abar).sqrt() * noise, noise
    else:
        x_t, target = inverted(prior, latents, noise, ind_t.tolist(), 80)
    eps = (1 - abar).sqrt() * (x_t - abar.sqrt() * prior.means) / spread(abar)
    assert (residual.eps_hat - eps).abs().max() < 1e-6
    assert (residual.target - target).abs().max() < 1e-6


def test_expected_sds_gradient_pulls_to_the_mode_and_vanishes_there(one_gaussian):
    """Antithetic noise gives the exact expectation of a linear residual: sqrt(abar (1 - abar)) (z - mu) / v."""
    prior, params, ind_t = one_gaussian, dataclasses.replace(PARAMS, sds=True), torch.tensor([400])
    abar, noise = prior.alphas_cumprod[401], randn(1, 3, 4, 4, seed=10)
    for offset in (torch.zeros_like(noise), randn(1, 3, 4, 4, seed=11)):
        latents = prior.means + offset
        pair = [Loss(params)(prior, latents, n, ind_t, conditioning(prior, 1)) for n in (noise, -noise)]
        mean = sum(residual.eps_hat - residual.target for residual in pair) / 2
        expected = (abar * (1 - abar)).sqrt() * offset / spread(abar)
        assert (mean - expected).abs().max() < 1e-6


def test_ism_gradient_vanishes_on_a_single_point():
    """With std 0 the inversion's noise prediction is the same at every level: nothing is left to score at the truth."""
    prior = GaussianMixturePrior(randn(1, 3, 4, 4, seed=12), 0.0)
    noise, ind_t = randn(1, 3, 4, 4, seed=13), torch.tensor([500])
    residual = Loss(PARAMS)(prior, prior.means, noise, ind_t, conditioning(prior, 1))
    assert (residual.eps_hat - residual.target).abs().max() < 1e-6


def test_gradient_descent_with_the_guidance_reaches_the_text_component():
    """Two components, one a text: distilling a text walks the image to its component."""
    means = torch.stack([torch.full((3, 2, 2), -0.5), torch.full((3, 2, 2), 0.5)]).double()
    weights = {f"x{view}": torch.tensor([0.0, 1.0]) for view in ("", ", front view", ", side view", ", back view")}
    prior = GaussianMixturePrior(means, 0.1, weights)
    params = dataclasses.replace(PARAMS, sds=True, guidance_scale=1.0)
    cond, streams, memory = conditioning(prior, 1), RandomStreams(0), NoiseMemory()
    image = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64, requires_grad=True)
    depth = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    for _ in range(300):
        result = distill_views(
            prior, image, depth, depth, cond, Loss(params), streams, warm_up_rate=0.0, as_latent=False, memory=memory
        )
        (gradient,) = torch.autograd.grad(result.latents, image, result.grad)
        image = (image.detach() - 0.01 * gradient).requires_grad_()
    assert (image - 0.75).abs().max() < 0.06  # 2 * 0.75 - 1 is the component's 0.5


def test_bad_mixture_is_refused():
    with pytest.raises(ValueError, match=r"means have shape \(3, 4, 4\) .*expected \[M,C,h,w\]"):
        GaussianMixturePrior(torch.zeros(3, 4, 4), 0.1)
