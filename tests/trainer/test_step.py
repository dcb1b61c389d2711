# SPDX-License-Identifier: Apache-2.0
"""CoGrad inside the training step: what it leaves alone, that a run resumes bit for bit, and what each switch changes."""

import copy
from pathlib import Path

import pytest
import torch

from arguments import Config
from arguments.load import load_config
from cograd import CoGrad
from gaussian_renderer import render
from guidance import score
from guidance.prompts import PromptEmbeddings
from tests.trees import equal
from trainer import step as training_step
from trainer.state import TrainState
from trainer.step import StepGradients, Update, apply_update, compute_gradients
from utils.tree_file import load_tree, save_tree

STEPS = 14
SMALL = {
    "iterations": STEPS, "densify_from_iter": 2, "densification_interval": 4, "opacity_reset_interval": 6, "densify_until_iter": 13,
    "densify_grad_threshold": 1e-7, "use_progressive": True, "warmup_iter": 10, "image_w": 16, "image_h": 16, "init_num_pts": 60,
    "C_batch_size": 2, "text": "a thing", "perpneg": False, "device": "cpu", "fovy_range": "0.85 1.1", "max_fovy_range": "0.85 1.1",
}  # fmt: skip
COGRAD = {"CoGradParams.enabled": True, "azimuth_levels": 4, "elevation_levels": 1, "max_step_share": 0.9, "max_t_difference": 900}
ONE_REGION = {"azimuth_levels": 1, "distance_levels": 1, "C_batch_size": 1}


def _config(folder: Path, **changes) -> Config:
    words = []
    for name, value in {**SMALL, **COGRAD, "model_path": folder, **changes}.items():
        words += [f"--{name}", *([str(value)] if name == "text" else str(value).split())]
    return load_config(words)


def _start(config: Config, prior) -> TrainState:
    state = TrainState.start(config, "cpu")
    state.begin_cograd(config, prior.alphas_cumprod)
    return state


def _gradients(state: TrainState) -> dict[str, torch.Tensor]:
    """Copies of what the optimizer is about to see."""
    return {name: p.grad.clone() for name, p in state.gaussians.parameters_in_order().items() if p.grad is not None}


def _step(state: TrainState, prior, config: Config) -> tuple[StepGradients, dict[str, torch.Tensor], Update]:
    step = compute_gradients(state, prior, PromptEmbeddings(prior, config.guidance), config)
    gradients = _gradients(state)
    update = apply_update(state, step, config)
    assert step.fault is None and update.fault is None
    return step, gradients, update


def _run(state: TrainState, prior, config: Config, until: int) -> list[tuple[StepGradients, dict, Update]]:
    return [_step(state, prior, config) for _ in range(state.iteration, until)]


# --- CoGrad with nothing to fuse is the plain step --------------------------------------------------------------------


def _feed_plain_step(monkeypatch, twin: CoGrad, prior) -> None:
    """Makes the plain step look where `twin` would, at its timesteps; the random streams are used as CoGrad does."""
    plans, draw_views, distill_views = [], training_step.draw_views, training_step.distill_views

    def draw(state, config, timer):
        assert state.cograd is None
        plans.append(twin.plan(state.iteration, config.guidance.C_batch_size, state.streams.torch))
        poses = twin.grid.sample_poses(plans[-1].regions, state.streams.torch)
        cameras = iter(state.scene.cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, state.streams, poses.cells))
        with monkeypatch.context() as patched:
            patched.setattr(state.scene.camera_stack, "pop", lambda streams: next(cameras))
            return draw_views(state, config, timer)

    def at_its_timesteps(prior, *args, ind_t, **options):
        assert ind_t is None
        return distill_views(prior, *args, ind_t=training_step._indices_of(prior, plans[-1].t), **options)

    monkeypatch.setattr(training_step, "draw_views", draw)
    monkeypatch.setattr(training_step, "distill_views", at_its_timesteps)


def _plain_and_cograd(tmp_path, prior, monkeypatch, steps: int, **changes):
    """(gradients a step, state) of a run with CoGrad and of a plain one with its cameras and timesteps."""
    config = _config(tmp_path / "cograd", **changes)
    state = _start(config, prior)
    observed, with_cograd = [], []
    for _ in range(steps):
        report, gradients, _ = _step(state, prior, config)
        observed.append((report.draws.plan.regions, report.distillation.t, report.distillation.loss_per_view))
        with_cograd.append(gradients)
    plain_config = _config(tmp_path / "plain", **{**changes, "CoGradParams.enabled": False})
    plain_state, twin = TrainState.start(plain_config, "cpu"), CoGrad(config.cograd, prior.alphas_cumprod, STEPS)
    _feed_plain_step(monkeypatch, twin, prior)
    plain = []
    for step, (regions, t, losses) in enumerate(observed, 1):
        report, gradients, _ = _step(plain_state, prior, plain_config)
        assert report.draws.plan is None and torch.equal(report.distillation.t, t)
        twin.observe(step, regions, t, losses, [None] * len(regions))  # its histories follow, its bank stays empty
        plain.append(gradients)
    return with_cograd, state, plain, plain_state


@pytest.mark.parametrize("weighting", ["interval", "sigma_squared", "uniform"])
def test_the_weighted_loss_signal_has_the_guidances_weighting(tmp_path, prior, weighting) -> None:
    """The settings of one w(t) in two places: what Eqs. (6) and (8) read, and what the gradient is weighted by."""
    config = _config(tmp_path, weighting=weighting, loss_signal="weighted")
    state = _start(config, prior)
    report, _, update = _step(state, prior, config)
    grad, residual = report.distillation.grad, report.distillation.residual
    w = (grad / (residual.eps_hat - residual.target)).flatten(1).median(dim=1).values / config.guidance.lambda_guidance
    signal = torch.tensor(update.cograd["signal"])
    torch.testing.assert_close(signal, (w * report.losses.per_view).to(signal), rtol=1e-4, atol=0.0)


def test_the_optimizer_gets_the_sum_of_all_fused_gradients(tmp_path, prior, monkeypatch) -> None:
    """Of every view, the first included; and the bank gets the gradients before fusion."""
    config = _config(tmp_path, C_batch_size=3, iterations=8, densify_until_iter=0, fusion_range="0 1")
    state, results, given, fused = _start(config, prior), [], [], 0
    fuse = state.cograd.fuse

    def recorded(step, region, t, g_main):
        given.append({name: g.clone() for name, g in g_main.items()})
        results.append(fuse(step, region, t, g_main))
        return results[-1]

    monkeypatch.setattr(state.cograd, "fuse", recorded)
    for _ in range(6):
        results.clear(), given.clear()
        report, gradients, _ = _step(state, prior, config)
        assert len(results) == 3
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, sum(result.g_fused[name] for result in results))
        fused += all(result.cosines for result in results)
        for region, main in zip(report.draws.plan.regions.tolist(), given):
            stored = state.cograd.bank.entries[region].unpack(main)
            assert all(torch.equal(stored[name], g) for name, g in main.items())
    assert fused > 0  # in some step every view had something to fuse with


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_scale_term_is_counted_once_however_many_views(tmp_path, prior, views, enabled) -> None:
    """With nothing else in the loss its gradient is that of lambda_scale * mean(scales)."""
    config = _config(
        tmp_path, C_batch_size=views, iterations=3, lambda_scale=0.7, lambda_tv=0.0, lambda_guidance=0.0,
        scale_aug_ratio=0.0, **{"CoGradParams.enabled": enabled},
    )  # fmt: skip
    state = _start(config, prior)
    scales = state.gaussians.get_scaling.detach().clone()
    _, gradients, _ = _step(state, prior, config)
    torch.testing.assert_close(gradients["scaling"], 0.7 * scales / scales.numel())


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("term", ["translucency", "flatness"])
def test_a_term_of_opacity_or_flatness_is_its_weight_times_the_mean_over_views(tmp_path, prior, views, term) -> None:
    """With nothing else in the loss: T (1 - T) over the pixels, or the smallest scales, by render()'s own graph."""
    config = _config(
        tmp_path, C_batch_size=views, iterations=3, lambda_scale=0.0, lambda_tv=0.0, lambda_guidance=0.0,
        **{f"lambda_{term}": 0.7}, **{"CoGradParams.enabled": False},
    )  # fmt: skip
    state = _start(config, prior)
    step = compute_gradients(state, prior, PromptEmbeddings(prior, config.guidance), config)
    gradients = _gradients(state)
    state.optimizer.zero_grad()
    found = []
    for camera, augmentation in step.draws.views:
        out = render(camera, state.gaussians, config.pipeline, augmentation.background, augmentation=augmentation)
        of_pixels, of_scales = out["alpha"] * (1 - out["alpha"]), out["scales"].min(dim=1).values
        found.append((of_pixels if term == "translucency" else of_scales).mean())
    mean = torch.stack(found).mean()
    (0.7 * mean).backward()
    assert step.losses.terms[term] == pytest.approx(mean.item(), rel=1e-5) and mean > 0
    assert step.losses.terms["total"] == pytest.approx(step.losses.terms["guidance"] + 0.7 * mean.item(), rel=1e-5)
    for name, gradient in _gradients(state).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("views", [1, 2, 3])
def test_densification_statistics_are_those_of_every_view(tmp_path, prior, views) -> None:
    """Accumulated in the views' order, from the gradient before fusion; with CoGrad off only the last view's count."""
    config = _config(tmp_path, C_batch_size=views, iterations=3, densify_from_iter=3, fusion_range="0 1")
    state = _start(config, prior)
    accumulated, seen, radii = 0.0, 0.0, torch.zeros(60)
    for _ in range(2):
        report, _, _ = _step(state, prior, config)
        for view in report.views:
            norm, visible = torch.linalg.vector_norm(view.ndc, dim=-1, keepdim=True), view.radii_px[:, None] > 0
            accumulated += torch.where(visible, norm, 0.0)
            seen += visible.float()
            radii = torch.maximum(radii, view.radii_px.float())
    assert torch.equal(state.gaussians.xyz_gradient_accum, accumulated) and float(accumulated.sum()) > 0
    assert torch.equal(state.gaussians.denom, seen) and float(seen.max()) == 2 * views
    assert torch.equal(state.gaussians.max_radii2D, radii)


def test_one_region_is_the_plain_run_bit_for_bit(tmp_path, prior, monkeypatch) -> None:
    """All of a run, densification and opacity resets included. The region's own gradient is no candidate here."""
    with_cograd, state, plain, plain_state = _plain_and_cograd(
        tmp_path, prior, monkeypatch, STEPS, **ONE_REGION, own_region_is_candidate=False
    )
    assert all(equal(a, b) for a, b in zip(with_cograd, plain, strict=True))
    assert len(state.gaussians.get_xyz) > 60 and len(state.cograd.grid) == 1
    assert equal(state.gaussians.capture(), plain_state.gaussians.capture())


def test_an_empty_bank_gives_the_plain_sum_of_the_views_exactly(tmp_path, prior, monkeypatch) -> None:
    """Fusion begins at a fifth of the run, 14 / 5 = 2.8: steps 1 and 2 are plain sums, step 3 is not."""
    no_densification = {"densify_until_iter": 0, "opacity_reset_interval": 1000}
    with_cograd, _, plain, _ = _plain_and_cograd(tmp_path, prior, monkeypatch, 3, **no_densification)
    assert equal(with_cograd[0], plain[0]) and equal(with_cograd[1], plain[1])
    assert not equal(with_cograd[2], plain[2])


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_the_optimizer_leaves_the_stored_gradient_alone(tmp_path, prior) -> None:
    """With one view a step and nothing to fuse, the bank and the optimizer share memory; weight decay included."""
    config = _config(tmp_path, C_batch_size=1, densify_until_iter=0, max_t_difference=0, weight_decay=0.1)
    state = _start(config, prior)
    for _ in range(6):
        report = compute_gradients(state, prior, PromptEmbeddings(prior, config.guidance), config)
        g_main = {name: g.clone() for name, g in report.views[0].g_main.items()}
        apply_update(state, report, config)
        region = int(report.draws.plan.regions[0])
    stored = state.cograd.bank.entries[region].unpack(g_main)
    assert stored["xyz"].any() and equal(dict(stored), g_main)


NORMALISED = {"loss_signal": "t_normalised", "bank_precision": "float32"}
OTHER_GAUSSIANS = [
    {"densifier": "absgrad", "max_points": 90},
    {"densifier": "mcmc", "max_points": 70, "mcmc_noise": 10.0},
    {"densifier": "cadam", "max_points": 90, "cadam_ratio": 0.4},
    {"mip_filter": True},
]


@pytest.mark.parametrize(
    ("cut", "changes"), [*((cut, x) for cut in (1, 4, 9) for x in ({}, NORMALISED)), *((9, x) for x in OTHER_GAUSSIANS)]
)
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, prior, cut, changes) -> None:
    config = _config(tmp_path / "whole", **changes)
    whole = _start(config, prior)
    reports = _run(whole, prior, config, STEPS)
    fused = [step.iteration for step, _, update in reports if any(view["cosines"] for view in update.cograd["fusion"])]
    assert min(fused) < 9 < max(fused)  # with stored gradients before and after the latest cut
    config = _config(tmp_path / "cut", **changes)
    broken = _start(config, prior)
    _run(broken, prior, config, cut)
    save_tree(tmp_path / "state", broken.state_dict())
    resumed = _start(config, prior)
    resumed.load_state_dict(load_tree(tmp_path / "state"))
    assert equal(broken.state_dict()["cograd"], resumed.state_dict()["cograd"])
    _run(resumed, prior, config, STEPS)
    assert 60 < len(whole.gaussians.get_xyz) <= config.optimization.max_points  # densification was in play
    assert equal(whole.state_dict(), resumed.state_dict())


def test_a_checkpoint_of_the_baseline_is_refused(tmp_path, prior) -> None:
    plain = _config(tmp_path, **{"CoGradParams.enabled": False})
    state = _start(plain, prior).state_dict()
    with pytest.raises(ValueError, match=r"another CoGradParams\.enabled"):
        _start(_config(tmp_path), prior).load_state_dict(state)


# --- switches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def after_five(tmp_path, prior):
    """step(**switch): the sixth step, as (report, gradients, update, state), of one run whose first five had CoGrad in full."""
    config = _config(tmp_path)
    state = _start(config, prior)
    _run(state, prior, config, 5)
    saved = copy.deepcopy(state.state_dict())

    def step(**switch):
        changed = _config(tmp_path, **switch)
        other = _start(changed, prior)
        other.load_state_dict(copy.deepcopy(saved))
        return *_step(other, prior, changed), other

    return step


def _plain_sum(step: StepGradients) -> dict[str, torch.Tensor]:
    first, *others = (view.g_main for view in step.views)
    return {name: sum(g[name] for g in others) + g0 for name, g0 in first.items()}


def _same_images(a: StepGradients, b: StepGradients) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.rendered, b.rendered, strict=True))


def test_the_sixth_step_has_something_to_switch_off(after_five) -> None:
    report, gradients, update, _ = after_five()
    p = report.draws.plan.probabilities
    assert float(p.max() - p.min()) > 1e-3  # A
    assert bool((report.draws.plan.t_local != 0).any())  # B
    assert any(view["cosines"] for view in update.cograd["fusion"]) and not equal(gradients, _plain_sum(report))  # C
    again, same, _, _ = after_five()
    assert equal(gradients, same) and _same_images(report, again)


def test_wo_region_changes_the_law_of_the_regions_alone(after_five) -> None:
    full, _, _, _ = after_five()
    report, gradients, update, state = after_five(use_regions=False)
    n = len(state.cograd.grid)
    torch.testing.assert_close(report.draws.plan.probabilities, torch.full((n,), 1 / n, dtype=torch.float64))
    assert report.draws.plan.t_global == full.draws.plan.t_global
    assert bool((report.draws.plan.t_local != 0).any()) and bool(((report.draws.plan.t - report.draws.plan.t_base).abs() <= 100.5).all())
    assert any(view["cosines"] for view in update.cograd["fusion"]) and not equal(gradients, _plain_sum(report))


def test_wo_timestep_changes_the_timesteps_alone(after_five) -> None:
    full, _, _, _ = after_five()
    report, gradients, update, _ = after_five(timestep_mode="random")
    assert torch.equal(report.draws.plan.regions, full.draws.plan.regions) and _same_images(report, full)
    assert torch.equal(report.draws.plan.probabilities, full.draws.plan.probabilities)
    assert not torch.equal(report.draws.plan.t, full.draws.plan.t) and bool(((report.draws.plan.t >= 100) & (report.draws.plan.t <= 900)).all())
    assert any(view["cosines"] for view in update.cograd["fusion"]) and not equal(gradients, _plain_sum(report))


def test_wo_fusion_changes_the_sum_of_the_gradients_alone(after_five) -> None:
    full, fused, _, _ = after_five()
    report, gradients, _, state = after_five(use_fusion=False)
    assert torch.equal(report.draws.plan.regions, full.draws.plan.regions) and torch.equal(report.draws.plan.t, full.draws.plan.t)
    assert _same_images(report, full) and equal([view.g_main for view in report.views], [view.g_main for view in full.views])
    assert torch.equal(report.distillation.loss_per_view, full.distillation.loss_per_view)
    assert equal(gradients, _plain_sum(report)) and not equal(fused, gradients)
    assert not len(state.cograd.bank)  # what no step can fuse is not kept


def test_schedule_only_leaves_the_global_schedule(tmp_path, prior) -> None:
    config = _config(tmp_path, use_regions=False, timestep_mode="schedule", use_fusion=False)
    state, full = _start(config, prior), _config(tmp_path / "full")
    t_global = [report.draws.plan.t_global for report, _, _ in _run(_start(full, prior), prior, full, 6)]
    for step in range(6):
        report, gradients, _ = _step(state, prior, config)
        assert report.draws.plan.t_global == t_global[step]
        assert bool((report.draws.plan.t_local == 0).all()) and bool((report.draws.plan.t_base == report.draws.plan.t_global).all())
        assert equal(gradients, _plain_sum(report))


# --- Mirrored views ---------------------------------------------------------------------------------------------------


class Watcher:
    """A model of the run's renders that notes the cameras of its views."""

    def __init__(self):
        self.predicted, self.observed = [], []

    def predict_noise(self, x_t, t, cameras):
        self.predicted.append(cameras)
        return x_t

    def observe(self, x, cameras):
        self.observed.append(cameras)


@pytest.mark.parametrize("with_cograd", [False, True])
def test_what_follows_the_camera_gets_that_of_the_mirrored_view(tmp_path, prior, monkeypatch, with_cograd) -> None:
    """The law's model of the renders where it predicts and where it observes, and the noise of noise_source camera."""
    config = _config(tmp_path, distillation="vsd", noise_source="camera", **{"CoGradParams.enabled": with_cograd})
    state, watcher, noised = _start(config, prior), Watcher(), []
    state.loss.predictor, noise_of_cameras = watcher, score.noise_of_cameras
    monkeypatch.setattr(score, "noise_of_cameras", lambda anchors, cameras: (noised.append(cameras), noise_of_cameras(anchors, cameras))[1])
    steps = [report for report, *_ in _run(state, prior, config, 8)]
    flips = [bool(step.distillation.flip) for step in steps]
    assert set(flips) == {False, True}
    for step, flip, *seen in zip(steps, flips, watcher.predicted, watcher.observed, noised, strict=True):
        rendered = step.draws.cameras
        for cameras in seen:
            assert torch.equal(cameras.azimuth_deg, -rendered.azimuth_deg if flip else rendered.azimuth_deg)
            assert torch.equal(cameras.to_world[:, 0, 3], (-1) ** flip * rendered.to_world[:, 0, 3])
