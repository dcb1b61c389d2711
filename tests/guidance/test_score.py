# SPDX-License-Identifier: Apache-2.0
"""Laws of `distill`: views with their own timesteps, call order, draws, and what happens when something is wrong."""

import dataclasses
import json

import pytest
import torch

from arguments import GuidanceParams
from guidance import sd_step
from guidance.losses import Loss
from guidance.prior import Conditioning
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from utils.random_streams import RandomStreams

PARAMS = GuidanceParams(text="x", perpneg=False)
AZIMUTHS_DEG = [10.0, -60.0, 170.0, 95.0]


class RecordingPrior(GaussianMixturePrior):
    """Remembers the timesteps of every network call."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = []

    def predict_noise(self, x_t, t, embeddings):
        assert x_t.shape[0] == t.shape[0] == embeddings.shape[0]
        self.calls.append(t.tolist())
        return super().predict_noise(x_t, t, embeddings)


def randn(*shape, seed=0):
    return Draws(seed, torch.float64).normal(*shape)


@pytest.fixture
def prior():
    views = ("x, front view", "x, side view", "x, back view", "x")
    return RecordingPrior(randn(5, 3, 4, 4), 0.3, {text: randn(5, seed=k).exp() for k, text in enumerate(views)})


def images(views=4, seed=1):
    rgb = Draws(seed, torch.float64).uniform(views, 3, 4, 4)
    return rgb.requires_grad_(), rgb.detach()[:, :1].clone().requires_grad_(), torch.zeros(views, 1, 4, 4)


def run(prior, params=PARAMS, seed=0, views=4, **changes):
    rgb, depth, alpha = images(views)
    options = {"warm_up_rate": 0.5, "as_latent": False, "memory": NoiseMemory(), **changes}
    streams = options.pop("streams", None) or RandomStreams(seed)
    cond = PromptEmbeddings(prior, params).conditioning(AZIMUTHS_DEG[:views])
    return distill_views(prior, rgb, depth, alpha, cond, Loss(params), streams, **options)


def rows_of(cond, rows):
    negatives = tuple((text[rows], weights[rows]) for text, weights in cond.negatives)
    return Conditioning(cond.uncond[rows], cond.positive[rows], cond.inverse[rows], negatives)


@pytest.mark.parametrize(
    "change", [{}, {"perpneg": True}, {"sds": True}, {"denoise_guidance_scale": 2.0}, {"xs_eta": 0.3}]
)
def test_views_with_their_own_timestep_equal_each_view_alone(prior, change):
    params = dataclasses.replace(PARAMS, **change)
    cond = PromptEmbeddings(prior, params).conditioning(AZIMUTHS_DEG)
    latents, noise, ind_t = randn(4, 3, 4, 4, seed=2), randn(4, 3, 4, 4, seed=3), torch.tensor([900, 30, 450, 101])
    together = Loss(params)(prior, latents, noise, ind_t, cond)
    for view in range(4):
        rows = slice(view, view + 1)
        alone = Loss(params)(prior, latents[rows], noise[rows], ind_t[rows], rows_of(cond, rows))
        for name in ("x_t", "eps_hat", "target"):
            torch.testing.assert_close(getattr(together, name)[rows], getattr(alone, name), rtol=1e-9, atol=1e-9)
        assert together.t[view] == alone.t[0] == ind_t[view] + 1


def test_permuting_views_permutes_the_result(prior):
    cond = PromptEmbeddings(prior, PARAMS).conditioning(AZIMUTHS_DEG)
    latents, noise, ind_t = randn(4, 3, 4, 4, seed=2), randn(4, 3, 4, 4, seed=3), torch.tensor([900, 30, 450, 101])
    order = torch.tensor([2, 0, 3, 1])
    straight = Loss(PARAMS)(prior, latents, noise, ind_t, cond)
    turned = Loss(PARAMS)(prior, latents[order], noise[order], ind_t[order], rows_of(cond, order))
    torch.testing.assert_close(turned.eps_hat, straight.eps_hat[order])
    torch.testing.assert_close(turned.target, straight.target[order])


def test_shared_timestep_is_the_special_case_of_own_ones(prior):
    shared = run(prior)
    streams = RandomStreams(0)
    own = run(prior, ind_t=shared.ind_t.clone(), streams=streams)
    assert torch.equal(own.grad, shared.grad)
    assert own.unet_timesteps == shared.unet_timesteps
    drawing = RandomStreams(0)
    run(prior, streams=drawing)
    assert torch.equal(streams.torch.get_state(), drawing.torch.get_state())
    assert not torch.equal(streams.noise.get_state(), drawing.noise.get_state())  # own ones cost no draw


def test_one_network_call_a_round_for_the_whole_batch(prior):
    ind_t = torch.tensor([900, 30, 450, 101])
    result = run(prior, ind_t=ind_t, warm_up_rate=0.0)
    rounds = max(len(sd_step.inversion_path(k, 80, 200, 5)) - 1 for k in ind_t.tolist())
    assert len(prior.calls) == rounds + 1
    assert prior.calls[0] == [1, 1, 1, 1]
    assert prior.calls[-1] == (ind_t + 1).tolist() * 2  # unconditional and text in one call
    assert result.unet_timesteps == [call[0] for call in prior.calls] == [1, 201, 401, 601, 801, 821, 901]


def test_inversion_guided_by_its_own_scale_runs_pairs(prior):
    run(prior, dataclasses.replace(PARAMS, denoise_guidance_scale=2.0), ind_t=torch.tensor([300] * 4), warm_up_rate=0.0)
    assert prior.calls == [[1] * 8, [201] * 8, [221] * 8, [301] * 8]


@pytest.mark.parametrize("name", ["plain", "perpneg_sh1"])
def test_timesteps_drawn_over_thirty_steps_are_upstreams(golden_dir, name):
    """The noise stream alone decides ind_t: upstream's first plain step draws one noise more."""
    trace = json.loads((golden_dir / "end_to_end" / f"trace_{name}.json").read_text())
    params = GuidanceParams(text="x", perpneg=name != "plain")
    prior = GaussianMixturePrior(torch.zeros(1, 4, 8, 8), 0.5)
    prior.encode_imgs = lambda images, generator, share: torch.zeros(len(images), 4, 8, 8)
    cond = PromptEmbeddings(prior, params).conditioning([0.0, 90.0])
    streams, memory, blank = RandomStreams(0), NoiseMemory(), torch.zeros(2, 1, 64, 64)
    for step in trace["trace"]:
        result = distill_views(
            prior, blank.expand(-1, 3, -1, -1), blank, blank, cond, Loss(params), streams,
            warm_up_rate=step["warm_up_rate"], as_latent=step["as_latent"], memory=memory,
        )  # fmt: skip
        assert result.unet_timesteps == step["unet_timesteps"]


def test_gradient_and_loss_are_those_of_the_residual(prior):
    params = dataclasses.replace(PARAMS, lambda_guidance=0.1)
    result = run(prior, params)
    abar = prior.alphas_cumprod[result.t]
    difference = result.residual.eps_hat - result.residual.target
    torch.testing.assert_close(result.grad, 0.1 * ((1 - abar) / abar).sqrt().view(-1, 1, 1, 1) * difference)
    torch.testing.assert_close(result.loss_per_view, difference.square().mean((1, 2, 3)))
    assert not result.grad.requires_grad and result.latents.requires_grad


@pytest.mark.parametrize(
    ("weighting", "w"),
    [("interval", lambda abar: ((1 - abar) / abar).sqrt()), ("sigma_squared", lambda abar: 1 - abar), ("uniform", torch.ones_like)],
)  # fmt: skip
def test_weighting_of_the_timesteps(prior, weighting, w):
    """The gradient alone is weighted, each view by its own timestep; the default is LucidDreamer's, bit for bit."""
    ind_t = torch.tensor([40, 300, 600, 950])
    default = run(prior, ind_t=ind_t)
    result = run(prior, dataclasses.replace(PARAMS, weighting=weighting), ind_t=ind_t)
    difference = result.residual.eps_hat - result.residual.target
    expected = PARAMS.lambda_guidance * w(prior.alphas_cumprod[result.t]).view(-1, 1, 1, 1) * difference
    torch.testing.assert_close(result.grad, expected)
    assert torch.equal(result.loss_per_view, default.loss_per_view)
    assert torch.equal(result.grad, default.grad) == (weighting == "interval")


def test_flip_and_source_of_the_latents(prior):
    rgb, depth, _ = images()
    seen = set()
    for seed in range(6):
        for as_latent in (False, True):
            result = run(prior, seed=seed, as_latent=as_latent)
            shown = depth.expand(-1, 3, -1, -1) if as_latent else rgb
            expected = 2 * (shown.flip(-1) if bool(result.flip) else shown) - 1
            assert torch.equal(result.latents, expected)
            assert bool(result.flip) == bool(RandomStreams(seed).rand(1) < 0.5)
            seen.add(bool(result.flip))
    assert seen == {True, False}


def test_fixed_noise_stays_and_survives_a_save(prior):
    params = dataclasses.replace(PARAMS, fix_noise=True)
    streams, memory = RandomStreams(0), NoiseMemory()
    run(prior, params, streams=streams, memory=memory)
    first = memory.first.clone()
    run(prior, params, streams=streams, memory=memory)
    assert torch.equal(memory.first, first)
    again = NoiseMemory()
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.first, first)
    with pytest.raises(ValueError, match=r"fix_noise keeps a noise of shape \(4, 3, 4, 4\) but the latents are \(2"):
        run(prior, params, streams=streams, memory=memory, views=2)


def test_saved_memory_and_streams_continue_exactly(prior):
    streams, memory = RandomStreams(3), NoiseMemory()
    run(prior, streams=streams, memory=memory)
    saved, kept = streams.state_dict(), memory.state_dict()
    unbroken = run(prior, streams=streams, memory=memory)
    later, again = RandomStreams(99), NoiseMemory()
    later.load_state_dict(saved)
    again.load_state_dict(kept)
    assert torch.equal(run(prior, streams=later, memory=again).grad, unbroken.grad)


class BrokenPrior(GaussianMixturePrior):
    """Predicts NaN for the second view."""

    def predict_noise(self, x_t, t, embeddings):
        eps = super().predict_noise(x_t, t, embeddings)
        eps[1::4, 0, 0, 0] = float("nan")
        return eps


@pytest.mark.parametrize("sds", [True, False])
def test_a_number_that_is_not_finite_is_reported_not_hidden(sds):
    result = run(BrokenPrior(randn(5, 3, 4, 4), 0.3), dataclasses.replace(PARAMS, sds=sds))
    assert result.finite_per_view.tolist() == [True, False, True, True]
    assert result.grad[1].isnan().any() and result.loss_per_view[1].isnan()


def test_inputs_that_do_not_fit_are_refused(prior):
    rgb, depth, alpha = images()
    cond = PromptEmbeddings(prior, PARAMS).conditioning(AZIMUTHS_DEG)

    def call(rgb=rgb, depth=depth, alpha=alpha, cond=cond, **more):
        options = {"warm_up_rate": 0.0, "as_latent": False, "memory": NoiseMemory(), **more}
        return distill_views(prior, rgb, depth, alpha, cond, Loss(PARAMS), RandomStreams(0), **options)

    with pytest.raises(ValueError, match=r"pred_depth has shape \(4, 1, 4, 2\); expected \(4, 1, 4, 4\)"):
        call(depth=depth[..., :2])
    with pytest.raises(ValueError, match=r"pred_alpha has shape \(4, 3, 4, 4\); expected \(4, 1, 4, 4\)"):
        call(alpha=rgb)
    with pytest.raises(ValueError, match=r"conditioning is for 2 views but 4 were rendered"):
        call(cond=PromptEmbeddings(prior, PARAMS).conditioning([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"ind_t has shape \(1,\); expected \(4,\)"):
        call(ind_t=torch.tensor([3]))
