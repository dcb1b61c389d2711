# SPDX-License-Identifier: Apache-2.0
"""The rules of upstream's update that its recorded clouds do not show: which view counts, what is dropped, from when on."""

import pytest
import torch

from arguments.load import load_config
from guidance.prompts import PromptEmbeddings
from trainer.state import TrainState
from trainer.step import apply_update, compute_gradients, prepare_schedules

SMALL = {
    "iterations": 8, "densify_from_iter": 4, "densification_interval": 2, "opacity_reset_interval": 5, "densify_until_iter": 8,
    "densify_grad_threshold": 1e9, "image_w": 16, "image_h": 16, "init_num_pts": 60, "C_batch_size": 2,
    "perpneg": False, "device": "cpu", "phi_range": "-20 20", "max_phi_range": "-20 20",
}  # fmt: skip


@pytest.fixture
def run(tmp_path, prior):
    """Makes one step after another: () -> (state, report, parameters before the update)."""
    words = ["--text", "a thing"]
    for name, value in {**SMALL, "model_path": tmp_path}.items():
        words += [f"--{name}", *str(value).split()]
    config = load_config(words)
    state, prompts = TrainState.start(config, "cpu"), PromptEmbeddings(prior, config.guidance)

    def step():
        report = compute_gradients(state, prior, prompts, config)
        before = {name: p.detach().clone() for name, p in state.gaussians.parameters_in_order().items()}
        apply_update(state, report, config)
        return state, report, before

    return step


def _moved(state, before) -> bool:
    after = state.gaussians.parameters_in_order()
    return len(after["xyz"]) != len(before["xyz"]) or not torch.equal(after["xyz"], before["xyz"])


def test_statistics_are_those_of_the_last_view_only(run) -> None:
    state, report, _ = run()
    first, last = (torch.linalg.vector_norm(view.ndc, dim=-1, keepdim=True) for view in report.views)
    assert not torch.allclose(first, last)
    assert torch.equal(state.gaussians.xyz_gradient_accum, torch.where(report.views[-1].radii_px[:, None] > 0, last, 0.0))
    assert torch.equal(state.gaussians.max_radii2D, report.views[-1].radii_px.float())


def test_densification_begins_at_its_first_iteration_and_drops_the_step(run) -> None:
    for _ in range(7):
        state, _, before = run()
        densified = state.iteration in (4, 6)
        assert _moved(state, before) != densified, state.iteration
        assert bool(state.gaussians.denom.any()) != densified  # statistics start anew


def test_the_world_size_limit_prunes_only_after_the_first_reset_interval(run) -> None:
    """Two huge Gaussians survive the densification of iteration 4 and go at 6, when opacity_reset_interval is behind."""
    counts = {}
    for _ in range(6):
        state, _, _ = run()
        if state.iteration == 3:
            with torch.no_grad():
                state.gaussians.parameters_in_order()["scaling"][:2] = 1.0  # e > 0.1 * 3.5
        counts[state.iteration] = len(state.gaussians.get_xyz)
    assert (counts[3], counts[4], counts[6]) == (60, 60, 58)


def test_the_last_iteration_makes_no_step(run) -> None:
    for _ in range(7):
        state, _, before = run()
    assert _moved(state, before)
    state, report, before = run()
    assert state.iteration == 8 and report.fault is None and not _moved(state, before)


def test_the_sh_degree_rises_at_every_five_hundredth_iteration(tmp_path) -> None:
    words = f"--text thing --device cpu --sh_degree 3 --image_w 16 --image_h 16 --init_num_pts 20 --model_path {tmp_path}"
    config = load_config(words.split())
    state = TrainState.start(config, "cpu")
    degrees = {}
    for state.iteration in (1, 2, 499, 500, 501, 999, 1000, 1001, 1500, 2000, 2001):
        prepare_schedules(state, config)
        degrees[state.iteration] = state.gaussians.active_sh_degree
    assert list(degrees.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_densification_ends_before_densify_until_iter(run) -> None:
    """Iteration 8 would be due, but is the end: the statistics of iteration 7 stay as they are."""
    for _ in range(7):
        run()
    state, _, _ = run()
    assert state.iteration == 8 and float(state.gaussians.denom.max()) == 1.0
