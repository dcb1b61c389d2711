# SPDX-License-Identifier: Apache-2.0
"""Laws that hold for every distillation law, on Gaussians in closed form: identity, linearity, sign, finite, row by row.

Everything is affine in the noise on a Gaussian, so expectations are exact: the value at n = 0.
"""

import json
from pathlib import Path

import pytest
import torch

from arguments import GuidanceParams
from arguments.load import load_config
from distillation import LAWS
from guidance import sd_step
from guidance.predictor import Cameras
from tests.drawn import Draws
from tests.gaussian_prior import LAM, RHO, A, Exact, GaussianPrior, S, residual
from tests.mixture_prior import GaussianMixturePrior

NUMBERS = json.loads((Path(__file__).parents[1] / "data" / "distillation_numbers.json").read_text())["laws"]
COND, UNCOND = (0.7, 0.4), (0.1, 0.9)
TIMES = [60, 300, 700]
CAMERAS = Cameras.at([0.0])


def params_of(law, **changes):
    """The law's preset, with a prompt that contains the word cond."""
    return GuidanceParams(**{"text": "cond", "perpneg": False, "distillation": law, **LAWS[law].preset, **changes})


def prior_of(cond=COND, uncond=UNCOND, **others):
    return GaussianPrior(**others, cond=cond, uncond=uncond)


def normal(*shape, seed=0):
    return Draws(seed, torch.float64).normal(*shape)


def filled(value, views=1):
    return torch.full((views, 1, 2, 2), float(value), dtype=torch.float64)


def mean(prior, params, x, t, **options):
    """The residual without noise: its expectation, [B,1,2,2]."""
    return residual(prior, params, x, torch.zeros_like(x), [t] * len(x), **options).difference


def test_the_table_of_numbers_is_of_every_law():
    assert set(NUMBERS) == set(LAWS)


@pytest.mark.parametrize("law", LAWS)
def test_the_presets_are_the_numbers_of_the_laws_authors(law):
    """As load_config resolves them, so that a number which a preset leaves to a default counts too."""
    resolved = load_config(["--text", "x", "--guidance", "ideal", "--allow_unknown_words", "--distillation", law]).guidance
    for name, number in NUMBERS[law].items():
        if name == "guidance_last":
            assert resolved.guidance_scale * resolved.guidance_end_share == pytest.approx(number, rel=1e-12)
        elif name != "samples":
            found = getattr(resolved, name)
            assert (list(found) if isinstance(found, tuple) else found) == number, name


@pytest.mark.parametrize("law", LAWS)
def test_samples_a_view_and_step(law):
    """What the table says, counted by the prior and by the step; Perp-Neg would add its negatives to each guided call."""
    prior = prior_of()
    options = {"predictor": Exact(0.0, 0.3), "cameras": CAMERAS}
    progress = 0.85 if law == "bridge" else 0.4
    found = residual(prior, params_of(law), normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), [450], progress=progress, **options)
    assert prior.samples == found.samples == NUMBERS[law]["samples"] and len(found.unet_timesteps) <= found.samples


def test_below_150_sctd_takes_one_sample_less():
    prior = prior_of()
    residual(prior, params_of("sctd"), normal(1, 1, 2, 2), normal(1, 1, 2, 2), [120])
    assert prior.samples == 4


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("t", [0, 1, 2, 998, 999])
def test_the_residual_is_finite_at_the_ends_of_the_schedule(law, t):
    found = residual(
        prior_of(), params_of(law), normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), [t], predictor=Exact(0.1, 0.3), cameras=CAMERAS, u=0.999
    )
    assert found.difference.isfinite().all() and found.eps_hat.isfinite().all()
    assert 0 <= int(found.t) < 1000


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("perpneg", [False, True])
def test_a_view_alone_equals_that_view_in_a_batch(law, perpneg):
    """With its own timestep; and the same inputs give the same numbers."""
    params, prior, times = params_of(law, perpneg=perpneg), prior_of(), [60, 350, 700, 973]
    x, n, q = normal(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1), Exact(0.1, 0.3, 0.5)
    options = {"predictor": q, "progress": 0.3}
    together = residual(prior, params, x, n, times, cameras=Cameras.at([0.0] * 4), **options)
    again = residual(prior, params, x, n, times, cameras=Cameras.at([0.0] * 4), **options)
    assert torch.equal(together.difference, again.difference)
    for k, t in enumerate(times):
        alone = residual(prior, params, x[k : k + 1], n[k : k + 1], [t], cameras=CAMERAS, **options)
        for name in ("difference", "eps_hat", "x_t"):
            torch.testing.assert_close(getattr(together, name)[k : k + 1], getattr(alone, name), rtol=1e-9, atol=1e-9)
        assert together.t[k] == alone.t[0]


@pytest.mark.parametrize("law", [law for law in LAWS if law != "sctd"])
@pytest.mark.parametrize("t", TIMES)
def test_with_one_text_for_both_the_guidance_scale_does_not_matter(law, t):
    """SCTD is the exception: its g + 1 multiplies a difference that is zero for an exact solver alone."""
    prior = prior_of(cond=COND, uncond=COND)
    found = [
        residual(prior, params_of(law, guidance_scale=g), normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), [t], predictor=Exact(0.2, 0.3), cameras=CAMERAS)
        for g in (1.0, 7.5, 101.0)
    ]  # fmt: skip
    for other in found[1:]:
        torch.testing.assert_close(other.difference, found[0].difference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("law", ["sds", "sjc", "hifa", "sdi"])
@pytest.mark.parametrize("t", TIMES)
def test_the_residual_is_the_distance_to_the_predicted_clean_latents(law, t):
    """C1, C2: e^g - n = (a/s) (x - x0(e^g)), so that w = s/a makes the gradient x - x0(e^g)."""
    x, params = normal(1, 1, 2, 2), params_of(law, guidance_scale=7.5)
    found = residual(prior_of(), params, x, normal(1, 1, 2, 2, seed=1), [t])
    abar = prior_of().alphas_cumprod[found.t]
    x0 = sd_step.predict_x0(found.x_t, found.eps_hat, abar)
    torch.testing.assert_close(found.difference, RHO[found.t] * (x - x0), rtol=1e-9, atol=1e-9)
    w = sd_step.timestep_weight(abar, "interval")
    torch.testing.assert_close(w * found.difference, x - x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("law", ["sds", "sjc", "hifa", "nfsd", "vsd", "esd"])
@pytest.mark.parametrize("t", TIMES)
def test_the_residual_is_linear_in_the_guidance_scale(law, t):
    """C3: its slope is e_c - e_u, the residual of CSD."""
    prior, x, n = prior_of(contrast=(0.3, 0.5)), normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1)
    options = {"predictor": Exact(0.1, 0.3), "cameras": CAMERAS}
    r = {g: residual(prior, params_of(law, guidance_scale=g), x, n, [t], **options).difference for g in (4.0, 9.0)}
    csd = residual(prior, params_of("csd"), x, n, [t], progress=0.0).difference
    torch.testing.assert_close((r[9.0] - r[4.0]) / 5, csd, rtol=1e-8, atol=1e-10)


# The sign: laws that contract on a Gaussian without guidance; others need it (ASD), or two texts (pure guidance).
WITHOUT_GUIDANCE = ["sds", "sjc", "hifa", "ism", "cds", "sdi"]


@pytest.mark.parametrize("law", WITHOUT_GUIDANCE)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("offset", [-1.3, 0.4])
def test_a_step_without_guidance_shrinks_the_distance_to_the_mean(law, t, offset):
    """C5, for the expected residual; CDS's as released, the loss as its paper words it has the other sign."""
    prior = prior_of(cond=COND, uncond=COND)
    step = mean(prior, params_of(law, guidance_scale=1.0), filled(COND[0] + offset), t)
    assert (step * offset > 1e-6).all(), step


GUIDED = {"asd": {}, "nfsd": {}, "gcs": {}, "sctd": {}, "csd": {"progress": 0.0}, "bridge": {"progress": 0.9}, "vsd": {}, "esd": {}, "bsd": {}}


@pytest.mark.parametrize("law", [*WITHOUT_GUIDANCE, *GUIDED])
@pytest.mark.parametrize("t", TIMES)
def test_a_step_with_guidance_moves_towards_the_text(law, t):
    """From between two narrow components of a mixture, the text's and another, at the law's own g: odd noise cancels."""
    means = torch.stack([filled(0.5)[0], filled(-0.5)[0]]).expand(2, 3, 2, 2)
    pure = torch.tensor([1.0, 1e-9])
    texts = {name: pure for name in ("cond", "cond, front view", "cond, side view", "cond, back view", "cond, front view, good")}
    prior = GaussianMixturePrior(means, 0.2, texts)
    words = {"target_words": ", good", "source_words": ", bad"} if law == "bridge" else {}
    params, x = params_of(law, **words), torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    n = normal(1, 3, 2, 2, seed=3)
    options = {"predictor": Exact(0.0, 0.2), "cameras": CAMERAS, **GUIDED.get(law, {})}
    both = [residual(prior, params, x, sign * n, [t], **options).difference for sign in (1, -1)]
    assert float((both[0] + both[1]).mean()) < -1e-6


def test_every_law_has_its_sign_tested():
    assert set(WITHOUT_GUIDANCE) | set(GUIDED) == set(LAWS)


def test_the_numbers_above_are_stable_diffusions():
    assert float(A[0]) == pytest.approx(0.99957, abs=1e-5) and float(LAM[999]) == pytest.approx(14.61, abs=0.01)
    assert torch.allclose(A**2 + S**2, torch.ones(1000, dtype=torch.float64))
