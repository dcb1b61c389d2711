# SPDX-License-Identifier: Apache-2.0
"""Each distillation law's own formula on Gaussians and point priors, by hand; the post steps on the gradient.

c and u are mean and width of the text's and the unconditional Gaussian, v their variances at t.
"""

import itertools

import pytest
import torch

from arguments import GuidanceParams
from distillation import LAWS
from distillation.laws import cds
from distillation.laws.bsd import minimum_norm
from guidance import inversion
from guidance.predictor import Cameras
from guidance.score import weighted_gradient
from tests.gaussian_prior import LAM, RHO, A, Exact, S, eps, residual, variance
from tests.guidance.test_laws import CAMERAS, COND, TIMES, UNCOND, filled, mean, normal, params_of, prior_of
from toy.particles import Particles

X = -0.3


def near(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=torch.float64).expand_as(found), rtol=tolerance, atol=tolerance)


def slope(prior, params, x, t, **options):
    """How much the residual follows the noise."""
    one = residual(prior, params, x, torch.ones_like(x), [t], **options).difference
    return one - mean(prior, params, x, t, **options)


@pytest.mark.parametrize("t", TIMES)
def test_sds_mean_noise_and_fixed_points(t):
    v_c, v_u, x = variance(t, COND[1]), variance(t, UNCOND[1]), filled(X)
    plain = params_of("sds", guidance_scale=1.0)
    near(mean(prior_of(), plain, x, t), S[t] * A[t] * (X - COND[0]) / v_c)
    near(slope(prior_of(), plain, x, t).abs(), A[t] ** 2 * COND[1] ** 2 / v_c)
    guided, g = params_of("sds", guidance_scale=7.5), 7.5
    fixed = (g * COND[0] / v_c + (1 - g) * UNCOND[0] / v_u) / (g / v_c + (1 - g) / v_u)
    near(mean(prior_of(), guided, filled(fixed), t), 0.0)
    widths_agree = prior_of(uncond=(UNCOND[0], COND[1]))
    near(mean(widths_agree, guided, filled(UNCOND[0] + g * (COND[0] - UNCOND[0])), t), 0.0)


@pytest.mark.parametrize("t", TIMES)
def test_sjc_is_sds_with_uniform_weight(t):
    """In its own terms: z = x + lam n, D = z - lam e^g, (x - D)/lam."""
    n, x = normal(1, 1, 2, 2), filled(X)
    found = residual(prior_of(), params_of("sjc"), x, n, [t])
    z = x + LAM[t] * n
    torch.testing.assert_close(z / (1 + LAM[t] ** 2).sqrt(), found.x_t)
    near((x - (z - LAM[t] * found.eps_hat)) / LAM[t], found.difference)
    assert params_of("sjc").weighting == "uniform"


@pytest.mark.parametrize("t", TIMES)
def test_csd_has_no_noise_where_widths_agree_and_the_fixed_point_of_infinite_guidance(t):
    v_c, v_u = variance(t, COND[1]), variance(t, UNCOND[1])
    options = {"progress": 0.0}
    agree = prior_of(uncond=(UNCOND[0], COND[1]), contrast=COND)
    for x in (X, 0.9):
        near(mean(agree, params_of("csd"), filled(x), t, **options), S[t] * A[t] * (UNCOND[0] - COND[0]) / v_c)
    near(slope(agree, params_of("csd"), filled(X), t, **options), 0.0)
    fixed = (COND[0] / v_c - UNCOND[0] / v_u) / (1 / v_c - 1 / v_u)
    near(mean(prior_of(contrast=COND), params_of("csd"), filled(fixed), t, **options), 0.0)


def test_csd_gives_up_the_null_text_for_the_contrast_text():
    ugly, t = (-0.4, 0.6), 300
    prior, params, x = prior_of(ugly=ugly), params_of("csd"), filled(X)
    e_c, e_u, e_n = (float(eps(A[t] * X, t, *text)) for text in (COND, UNCOND, ugly))
    for progress, r in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        near(mean(prior, params, x, t, progress=progress), e_c - (1 - r) * e_u - r * e_n)


@pytest.mark.parametrize(("t", "is_noisy"), [(150, False), (199, False), (200, True), (700, True)])
def test_nfsd(t, is_noisy):
    params, g = params_of("nfsd"), 7.5
    e_c, e_u = (float(eps(A[t] * X, t, *text)) for text in (COND, UNCOND))
    near(mean(prior_of(), params, filled(X), t), g * (e_c - e_u) + (0 if is_noisy else e_u))
    bad = (-0.4, 0.6)
    e_n = float(eps(A[t] * X, t, *bad))
    near(mean(prior_of(unrealistic=bad), params, filled(X), t), g * (e_c - e_u) + e_u - (e_n if is_noisy else 0))
    alike = prior_of(uncond=COND)
    near(slope(alike, params, filled(X), t), 0.0 if is_noisy else S[t] ** 2 / variance(t, COND[1]))


@pytest.mark.parametrize("t", TIMES)
def test_bridge(t):
    x, g = filled(X), 100.0
    first = mean(prior_of(), params_of("bridge"), x, t, progress=0.79)
    near(first, S[t] ** 2 * mean(prior_of(), params_of("sds", guidance_scale=g), x, t))
    later = {"progress": 0.8}
    same = params_of("bridge", source_words=", detailed", target_words=", detailed")
    near(mean(prior_of(), same, x, t, **later), 0.0)
    # With the unconditional text as source it is CSD times g.
    source_is_null = prior_of(bad=UNCOND)
    words = params_of("bridge", source_words=", bad", target_words=", good")
    csd = mean(prior_of(), params_of("csd"), x, t, progress=0.0)
    near(mean(source_is_null, words, x, t, **later), g * csd)


@pytest.mark.parametrize("t", TIMES)
def test_asd_without_shift_is_csd_and_else_compares_two_timesteps(t):
    prior, x = prior_of(), filled(X)
    still = mean(prior, params_of("asd"), x, t, u=0.0)
    near(still, 6.5 * mean(prior, params_of("csd"), x, t, progress=0.0))
    u = 0.75
    later = min(t + int(u * 0.1 * (t - 20)), 999)
    plain = params_of("asd", guidance_scale=1.0)
    v, v_later = variance(t, COND[1]), variance(later, COND[1])
    near(mean(prior, plain, x, t, u=u), (S[t] * A[t] / v - S[later] * A[later] / v_later) * (X - COND[0]))
    noise = S[t] ** 2 / v - S[later] ** 2 / v_later
    near(slope(prior, plain, x, t, u=u), noise)
    assert noise.abs() < (S[t] ** 2 / v - 1).abs()


def test_asd_without_guidance_repels_at_low_noise():
    """Below a critical timestep, 125 at width 0.4: that is why its sign is tested with guidance alone."""
    plain, offset = params_of("asd", guidance_scale=1.0), 0.5
    signs = [float(mean(prior_of(), plain, filled(COND[0] + offset), t, u=0.99).mean()) for t in (100, 500)]
    assert signs[0] < 0 < signs[1]


@pytest.mark.parametrize("planned", [True, False])
def test_cds_contracts_to_the_mean_less_its_noise(planned):
    """p - p1 = d^2 (lam - lam1)/((d^2 + lam1^2)(d^2 + lam^2)) (x + lam n - mu): the noise is in the fixed point."""
    given, u, d, n = 500, 0.5, COND[1], 0.8
    t, t1 = (500, 300) if planned else (700, 500)
    prior, params = prior_of(uncond=COND), params_of("cds", guidance_scale=1.0, guidance_end_share=1.0)
    found = residual(prior, params, filled(X), filled(n), [given], u=u, is_planned=planned)
    factor = d**2 * (LAM[t] - LAM[t1]) / ((d**2 + LAM[t1] ** 2) * (d**2 + LAM[t] ** 2))
    near(found.difference, factor * (X + LAM[t] * n - COND[0]))
    assert factor > 0 and int(found.t) == t and found.unet_timesteps == [t, t1]
    point = (COND[0], 0.0)
    near(residual(prior_of(point, point), params, filled(X), filled(n), [given], u=u).difference, 0.0)


def test_cds_keeps_the_gap_of_its_timesteps():
    """Of 100 to 300, whoever chose the timestep."""
    for planned in (True, False):
        for u in (0.0, 0.5, 0.9999):
            step = type("S", (), {"count": 1000, "index": torch.tensor([600]), "is_planned": planned, "uniform": lambda self, u=u: torch.tensor([u], dtype=torch.float64)})()
            upper, lower = cds.levels(step)
            assert 100 <= int(upper - lower) < 300 and int(upper if planned else lower) == 600


@pytest.mark.parametrize("t", TIMES)
def test_vsd_with_the_true_model_of_its_particles(t):
    x, n, plain = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), params_of("vsd", guidance_scale=1.0)
    options = {"cameras": CAMERAS}
    q_is_p = residual(prior_of(), plain, x, n, [t], predictor=Exact(*COND), **options)
    near(q_is_p.difference, 0.0)  # for every x and n, not on average alone
    guided = params_of("vsd")
    one_particle = residual(prior_of(), guided, x, n, [t], predictor=Exact(x, 0.0), **options).difference
    near(one_particle, residual(prior_of(), params_of("sds", guidance_scale=7.5), x, n, [t]).difference)
    m = filled(0.2)
    v = variance(t, COND[1])
    near(mean(prior_of(), plain, m, t, predictor=Exact(0.2, 0.3), **options), S[t] * A[t] * (0.2 - COND[0]) / v)


@pytest.mark.parametrize("t", TIMES)
def test_esd_lies_half_way_between_all_cameras_and_one(t):
    x, n = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1)

    def found(law, predictor, **changes):
        return residual(prior_of(), params_of(law, **changes), x, n, [t], predictor=predictor, cameras=CAMERAS).difference

    q = Exact(0.1, 0.3, m_camera=0.6)
    ends = [found("vsd", q, camera_guidance=gamma) for gamma in (0.0, 1.0)]
    near(found("esd", q), sum(ends) / 2)
    near(ends[0], found("vsd", Exact(0.1, 0.3)))
    assert not torch.allclose(ends[0], ends[1])
    near(found("esd", Exact(0.1, 0.3)), found("vsd", Exact(0.1, 0.3)))


@pytest.mark.parametrize("t", TIMES)
def test_the_toy_worlds_model_of_one_render_makes_vsd_sds(t):
    prior, x, n = prior_of(), normal(1, 3, 4, 4), normal(1, 3, 4, 4, seed=1)
    q = Particles(prior.alphas_cumprod, 1.0, 0.0, 0.0)
    sds = residual(prior, params_of("sds", guidance_scale=7.5), x, n, [t]).difference
    for seen in (False, True):  # before it has seen anything the noise stands for its prediction
        if seen:
            q.observe(x, CAMERAS)
        near(residual(prior, params_of("vsd"), x, n, [t], predictor=q, cameras=CAMERAS).difference, sds, 1e-6)


def test_the_toy_worlds_model_prefers_renders_from_nearby_and_forgets_the_oldest():
    q = Particles(prior_of().alphas_cumprod, 1.0, 0.1, 0.0)
    front, back = torch.zeros(1, 3, 2, 2, dtype=torch.float64), torch.ones(1, 3, 2, 2, dtype=torch.float64)
    q.observe(torch.cat([front, back]), Cameras.at([0.0, 180.0]))
    x_t, t = 0.5 * A[900] * torch.ones(1, 3, 2, 2, dtype=torch.float64), torch.tensor([900])

    def clean(cameras):
        return float(((x_t - S[900] * q.predict_noise(x_t, t, cameras)) / A[900]).mean())

    assert clean(Cameras.at([10.0])) < 0.01 and clean(Cameras.at([-170.0])) > 0.99
    assert clean(None) == pytest.approx(0.5, abs=1e-6)
    restored = Particles(prior_of().alphas_cumprod, 1.0, 0.1, 0.0)
    restored.load_state_dict(q.state_dict())
    assert torch.equal(restored.predict_noise(x_t, t, None), q.predict_noise(x_t, t, None))
    for _ in range(8):
        q.observe(torch.cat([back, back]), Cameras.at([0.0, 90.0]))
    assert len(q.renders) == 16 and clean(Cameras.at([0.0])) > 0.99


POINT_C, POINT_U = (0.7, 0.0), (0.1, 0.0)
STEPS = [(300, 0.5), (640, 0.0), (910, 0.9)]


@pytest.mark.parametrize(("t", "u"), STEPS)
def test_gcs_on_point_priors(t, u):
    """x0_guided - x0_null = g (mu_c - mu_u), and the compact part -s_e g (mu_c - mu_u)(rho_p - rho_t) times 2 a_e."""
    params, n = params_of("gcs", annealing_intervals=False, delta_t=100), normal(1, 1, 2, 2)
    p = t - 100
    e = t - 200 + int(u * 90)
    found = residual(prior_of(POINT_C, POINT_U), params, filled(X), n, [t], u=u).difference
    pull = 7.5 * (POINT_C[0] - POINT_U[0])
    near(found, -2 * A[e] * S[e] * pull * (RHO[p] - RHO[t]) - pull, 1e-8)
    near(residual(prior_of(POINT_C, POINT_C), params, filled(X), n, [t], u=u).difference, X - X, 1e-8)


@pytest.mark.parametrize(("t", "e", "u"), [(300, 212, 0.5), (640, 596, 0.3), (910, 788, 0.0), (130, 20, 0.9)])
def test_sctd_on_point_priors(t, e, u):
    """-g (mu_c - mu_u) s_e [(g + 1)(rho_e - rho_t) - (rho_p - rho_t)]; t is raised to e + 80; 0 for one text."""
    n, g = normal(1, 1, 2, 2), 7.5
    t_used = max(t, e + 80)
    p = e + 10 + int(u * (t_used - e - 20))
    found = residual(prior_of(POINT_C, POINT_U), params_of("sctd"), filled(X), n, [t], u=u)
    bracket = (g + 1) * (RHO[e] - RHO[t_used]) - (RHO[p] - RHO[t_used])
    near(found.difference, -g * (POINT_C[0] - POINT_U[0]) * S[e] * bracket, 1e-8)
    assert bracket > 0 and int(found.t) == t_used
    near(residual(prior_of(POINT_C, POINT_C), params_of("sctd"), filled(X), n, [t], u=u).difference, 0.0, 1e-8)


def test_bsd_works_against_neither_direction():
    c, d = normal(200, 1, 2, 2), normal(200, 1, 2, 2, seed=1)
    found = minimum_norm(c, d)
    square = found.square().sum((1, 2, 3))
    for direction in (c, d):
        assert ((found * direction).sum((1, 2, 3)) >= square - 1e-9).all()
    shorter = minimum_norm(c, 2 * c)
    near(shorter, c)
    near(minimum_norm(c, c), c)


def test_bsd_is_between_guidance_and_e_u():
    x, n, t = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), 300
    found = residual(prior_of(), params_of("bsd"), x, n, [t])
    e_c, e_u = (eps(found.x_t, t, *text) for text in (COND, UNCOND))
    near(found.difference, minimum_norm(15 * (e_c - e_u), e_u))


@pytest.mark.parametrize("t", TIMES)
def test_sdi_finds_the_truth_of_a_point_prior(t, monkeypatch):
    monkeypatch.setattr(inversion, "SDI_ETA", 0.0)
    point = (0.7, 0.0)
    found = residual(prior_of(point, point), params_of("sdi", guidance_scale=1.0), filled(0.7), normal(1, 1, 2, 2), [t])
    near(found.difference, 0.0, 1e-8)
    assert t <= int(found.t) == min(t + 50, 999)


def test_sdi_inverts_away_from_the_text_and_keeps_a_share_of_fresh_noise():
    """By hand: from 0 over 100 to 200 at t = 150 and u = 1/2, guided by -7.5; then 0.3 of the noise is fresh."""
    n = normal(1, 1, 2, 2)
    x = A[0] * X + S[0] * n
    for start, end in ((0, 100), (100, 200)):
        e_u, e_c = eps(x, start, *UNCOND), eps(x, start, *COND)
        e = e_u - 7.5 * (e_c - e_u)
        x = A[end] * (x - S[start] * e) / A[start] + S[end] * e
    implied = (x - A[200] * X) / S[200]
    found = residual(prior_of(), params_of("sdi"), filled(X), n, [150])
    near(found.x_t, A[200] * X + S[200] * ((1 - 0.09) ** 0.5 * implied + 0.3 * n))
    near(found.difference, RHO[200] * (X - (found.x_t - S[200] * found.eps_hat) / A[200]))


@pytest.mark.parametrize("law", LAWS)
def test_a_schedule_of_few_timesteps_is_one_too(law):
    """Of which a tenth is less than one step."""
    prior = prior_of()
    options = {"predictor": Exact(0.0, 0.3), "cameras": CAMERAS, "warm_up_rate": 1.0}
    for noising in ("direct", "inversion"):
        params = params_of(law, noising=noising)
        for count, u in itertools.product((1, 2, 9, 11), (0.0, 0.99)):
            prior.num_train_timesteps = count
            found = residual(prior, params, filled(X), normal(1, 1, 2, 2), [count - 1], u=u, **options)
            assert bool(found.difference.isfinite().all())


def test_any_law_that_leaves_the_noising_open_takes_the_inversion():
    for law in ("sds", "csd", "nfsd", "bsd", "vsd"):
        options = {"predictor": Exact(0.0, 0.3), "cameras": CAMERAS}
        changed = [residual(prior_of(), params_of(law, noising=way), filled(X), normal(1, 1, 2, 2), [400], **options) for way in ("direct", "inversion")]
        assert int(changed[0].t) == 400 and int(changed[1].t) == 450


def params_with(**post):
    return GuidanceParams(text="x", lambda_guidance=1.0, **post)


def test_a_clamped_gradient_keeps_its_bound():
    """Which moves from the first to the last number, up or down, from or to 0."""
    grad, w = 10 * normal(2, 3, 4, 4), torch.ones(2, 1, 1, 1, dtype=torch.float64)
    for ends in ((2.0, 8.0), (8.0, 2.0), (2.0, 0.0), (0.0, 2.0)):
        for progress in (0.0, 0.5, 1.0):
            bound, params = ends[0] + (ends[1] - ends[0]) * progress, params_with(grad_clamp=ends)
            clamped = weighted_gradient(grad, w, params, progress)
            assert clamped.abs().max() == bound and torch.equal(clamped, grad.clamp(-bound, bound))
            assert torch.equal(weighted_gradient(clamped, w, params, progress), clamped)
    assert torch.equal(weighted_gradient(grad, w, params_with(grad_clamp=(1e9, 1e9)), 0.3), weighted_gradient(grad, w, params_with(), 0.3))


def test_a_unit_gradient_has_norm_one_a_view_whatever_its_weight():
    grad, w = normal(2, 3, 4, 4), torch.tensor([0.1, 30.0], dtype=torch.float64).view(2, 1, 1, 1)
    unit = weighted_gradient(grad, w, params_with(grad_unit_norm=True), 0.0)
    near(unit.flatten(1).norm(dim=1), 1.0)
    assert torch.equal(weighted_gradient(0 * grad, w, params_with(grad_unit_norm=True), 0.0), 0 * grad)


@pytest.mark.parametrize("r", [0.0, 0.5, 1.0])
def test_rescaled_guidance_has_the_deviation_asked_for(r):
    """MVDream's: the deviation of x0(e^g) becomes r std(x0(e_c)) + (1 - r) std(x0(e^g))."""
    x, n, t = normal(1, 1, 4, 4), normal(1, 1, 4, 4, seed=1), 500
    params = params_of("sds", guidance_scale=50.0, guidance_rescale=r)
    found = residual(prior_of(), params, x, n, [t])
    plain = residual(prior_of(), params_of("sds", guidance_scale=50.0), x, n, [t])
    x0_c, x0_g, x0 = ((found.x_t - S[t] * e) / A[t] for e in (eps(found.x_t, t, *COND), plain.eps_hat, found.eps_hat))
    near(x0.std(), r * x0_c.std() + (1 - r) * x0_g.std())
    near(x0, x0_g * (x0.std() / x0_g.std()))
