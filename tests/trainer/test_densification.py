# SPDX-License-Identifier: Apache-2.0
"""What each densifier does inside the training step."""

from pathlib import Path

import pytest
import torch

from arguments import Config
from arguments.load import load_config
from gaussian_renderer.views import RenderedView, backward_to_screen, render_views
from guidance.prompts import PromptEmbeddings
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from trainer import densification
from trainer.draws import draw_views
from trainer.run_log import PhaseTimer
from trainer.state import TrainState
from trainer.step import StepGradients, apply_update, compute_gradients, view_gradients

SIDE = 8
SMALL = {
    "iterations": 12, "densify_from_iter": 4, "densification_interval": 4, "opacity_reset_interval": 6, "densify_until_iter": 10,
    "densify_grad_threshold": 1e-7, "use_progressive": True, "image_w": SIDE, "image_h": SIDE, "init_num_pts": 60,
    "C_batch_size": 2, "text": "a thing", "perpneg": False, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def small_prior() -> GaussianMixturePrior:
    return GaussianMixturePrior(Draws(3).normal(2, 3, SIDE, SIDE), std=0.3)


def _config(folder: Path, **changes) -> Config:
    settings = {**SMALL, "model_path": folder, **changes}
    return load_config([word for name, value in settings.items() for word in (f"--{name}", str(value))])


def _step(state: TrainState, prior, config: Config) -> StepGradients:
    step = compute_gradients(state, prior, PromptEmbeddings(prior, config.guidance), config)
    assert apply_update(state, step, config).fault is None
    return step


def _rendered(state: TrainState, config: Config) -> list[RenderedView]:
    return render_views(draw_views(state, config, PhaseTimer()).views, state.gaussians, config.pipeline)


def _orthogonal_signs() -> torch.Tensor:
    """[64, 1, 8, 8] of +-1, orthogonal: Sylvester's matrix."""
    h = torch.ones(1, 1)
    while len(h) < SIDE**2:
        h = torch.cat([torch.cat([h, h], dim=1), torch.cat([h, -h], dim=1)])
    return h.reshape(-1, 1, SIDE, SIDE)


def test_the_mean_square_over_signs_is_the_sum_of_squares_over_pixels(tmp_path) -> None:
    """Where the plain gradient cancels as well. Over orthogonal signs the identity is exact."""
    config = _config(tmp_path, densifier="absgrad", C_batch_size=1)
    views = _rendered(TrainState.start(config, "cpu"), config)
    draws = Draws(5)
    g_image = draws.normal(1, 3, SIDE, SIDE)

    def of(mask: torch.Tensor) -> torch.Tensor:
        return backward_to_screen(views, {"image": g_image * mask})[0][:, :2].double()

    by_pixel = torch.stack([of(one) for one in torch.eye(SIDE**2).reshape(-1, 1, SIDE, SIDE)])
    by_signs = torch.stack([of(signs) for signs in _orthogonal_signs()])
    want = by_pixel.square().sum(dim=0)
    torch.testing.assert_close(by_signs.square().mean(dim=0), want, rtol=1e-3, atol=1e-6 * float(want.max()))
    plain = of(torch.ones(1, 1, SIDE, SIDE))
    cancelled = (plain.norm(dim=1) < 0.3 * want.sum(dim=1).sqrt()) & (want.sum(dim=1) > 0)
    assert int(cancelled.sum()) > 0


def test_signs_change_what_densification_reads_and_nothing_else(tmp_path) -> None:
    config = _config(tmp_path, C_batch_size=2)
    state, draws = TrainState.start(config, "cpu"), Draws(7)
    g_maps = {"image": draws.normal(2, 3, SIDE, SIDE), "disparity": draws.normal(2, 1, SIDE, SIDE)}
    signs = torch.sign(draws.normal(2, 1, SIDE, SIDE))
    streams = state.streams.state_dict()
    plain = list(view_gradients(state, _rendered(state, config), g_maps, config.optimization, 2))
    state.streams.load_state_dict(streams)
    state.scene.camera_stack.load_state_dict({})
    signed = list(view_gradients(state, _rendered(state, config), g_maps, config.optimization, 2, signs))
    for one, other in zip(plain, signed, strict=True):
        assert all(torch.equal(g, other.g_main[name]) for name, g in one.g_main.items())
        assert torch.equal(one.radii_px, other.radii_px) and not torch.equal(one.ndc, other.ndc)


@pytest.mark.parametrize(("densifier", "iteration", "drawn"), [("absgrad", 8, True), ("absgrad", 9, False), ("inria", 8, False)])
def test_signs_are_drawn_while_they_are_read(tmp_path, densifier, iteration, drawn) -> None:
    config = _config(tmp_path, densifier=densifier)
    state = TrainState.start(config, "cpu")
    state.iteration, before = iteration, state.streams.torch.get_state()
    signs = densification.pixel_signs(state, config.optimization, (3, 40, 50))
    assert (signs is not None) == drawn == (not torch.equal(before, state.streams.torch.get_state()))
    if signs is not None:
        assert signs.shape == (3, 1, 40, 50) and set(signs.unique().tolist()) == {-1.0, 1.0}
        assert abs(float(signs.mean())) < 5 / 6000**0.5  # five deviations


@pytest.mark.parametrize("densifier", ["inria", "absgrad", "cadam"])
def test_without_cograd_only_inria_reads_the_last_view_alone(tmp_path, small_prior, densifier) -> None:
    config = _config(tmp_path, densifier=densifier, C_batch_size=3)
    state = TrainState.start(config, "cpu")
    step = _step(state, small_prior, config)
    views = step.views[-1:] if densifier == "inria" else step.views
    want = sum((view.radii_px > 0).float() for view in views)
    assert torch.equal(state.gaussians.denom[:, 0], want)


@pytest.mark.parametrize("densifier", ["absgrad", "mcmc", "cadam"])
def test_the_budget_is_kept(tmp_path, small_prior, densifier) -> None:
    """A low threshold densifies every Gaussian; two densifications of 3DGS-MCMC add 3 and 4."""
    config = _config(tmp_path, densifier=densifier, max_points=65, cadam_ratio=0.0, mcmc_opacity=0.0)
    state = TrainState.start(config, "cpu")
    counts = []
    for _ in range(12):
        _step(state, small_prior, config)
        counts.append(len(state.gaussians.get_xyz))
    assert counts[:3] == [60] * 3 and max(counts) == 65


def test_mcmc_resets_no_opacity(tmp_path, small_prior) -> None:
    config = _config(tmp_path, densifier="mcmc", mcmc_opacity=0.0, opacity_lr=0.0, densify_from_iter=99)
    state = TrainState.start(config, "cpu")
    for _ in range(7):
        _step(state, small_prior, config)
    torch.testing.assert_close(state.gaussians.get_opacity, torch.full((60, 1), 0.1))


def test_mcmc_adds_its_opacity_term_and_its_noise_to_the_optimizers_step(tmp_path, small_prior, monkeypatch) -> None:
    """Once a step, however many views; the noise follows the positions' learning rate of this iteration."""
    seen = {}
    config = _config(tmp_path, densifier="mcmc", mcmc_opacity=0.5, lambda_guidance=0.0, lambda_tv=0.0, lambda_scale=0.0)
    state = TrainState.start(config, "cpu")
    opacity, step = state.gaussians.get_opacity.detach().clone(), state.optimizer.step

    def recorded() -> None:
        seen["grad"] = state.gaussians.parameters_in_order()["opacity"].grad.clone()
        seen["before"] = state.gaussians.get_xyz.detach().clone()
        step()

    monkeypatch.setattr(state.optimizer, "step", recorded)
    monkeypatch.setattr(densification, "add_position_noise", lambda *args: seen.update(noise=args))
    _step(state, small_prior, config)
    torch.testing.assert_close(seen["grad"], 0.5 / 60 * opacity * (1 - opacity))
    rate = next(group["lr"] for group in state.optimizer.param_groups if group["name"] == "xyz")
    assert seen["noise"][1:] == (rate, config.optimization.mcmc_noise, state.streams)


def test_steps_of_the_optimizer_are_counted(tmp_path, small_prior) -> None:
    """Those with a gradient: not the one of a densification, nor the run's last."""
    config = _config(tmp_path, densify_grad_threshold=1e9)
    state, counts = TrainState.start(config, "cpu"), []
    for _ in range(12):
        _step(state, small_prior, config)
        counts.append(int(state.gaussians.steps_since_added.max()))
    assert counts == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
