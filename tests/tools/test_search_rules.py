# SPDX-License-Identifier: Apache-2.0
"""tools/search_rules.py: what each rule makes of steps of a real run, against the same written out."""

from contextlib import ExitStack

import pytest
import torch

from tests.drawn import Draws
from tools import search_rules
from trainer.startup import read_settings
from trainer.step import apply_update, compute_gradients, pop_gradient, set_gradient

FLAGS = [
    *("--opt", "toy", "--text", "a cyan robot with orange arms", "--iterations", "8", "--C_batch_size", "4"),
    *("--image_w", "16", "--image_h", "16", "--init_num_pts", "60", "--save_video", "false", "--quiet", "true"),
    *("--CoGradParams.enabled", "true", "--azimuth_levels", "4", "--elevation_levels", "1", "--distance_levels", "1"),
    *("--fusion_range", "0", "1", "--max_step_share", "1", "--max_t_difference", "1000", "--shs_aug_ratio", "0"),
]


@pytest.fixture
def trainer(tmp_path):
    """A run of four regions, of which each step sees all, with a rule by name."""
    with ExitStack() as opened:
        yield lambda rule: search_rules._RuleTrainer(
            read_settings([*FLAGS, "--model_path", str(tmp_path)]), opened, rule
        )


def half_step(made):
    """A step up to the rule, which has seen it."""
    step = compute_gradients(made.state, made.prior, made.prompts, made.config)
    made.rule.before_update(step)
    return step


def test_a_rerendered_gradient_is_the_views_own_while_nothing_has_changed(trainer) -> None:
    """And another one once the Gaussians have moved, of which a stored gradient knows nothing."""
    made = trainer("rerendered")
    step = half_step(made)
    regions, total = step.draws.plan.regions.tolist(), pop_gradient(made.state)
    for region, view in zip(regions, step.views, strict=True):
        again = made.rule._gradient(made.rule.latest[region])
        assert list(again) == list(view.g_main)
        largest = max(float(g.abs().max()) for g in view.g_main.values())
        for name, g in view.g_main.items():
            assert torch.allclose(again[name], g, rtol=1e-3, atol=1e-4 * largest)
    set_gradient(made.state, total, step.views, step.losses.t)
    apply_update(made.state, step, made.config)
    target, g_main = made.rule.targets[regions[0]], step.views[0].g_main
    (own,) = [c for c in made.rule.candidates(2, regions[0], target.t, g_main) if c.d == 0]
    assert not torch.allclose(own.g_hist["xyz"], g_main["xyz"], rtol=0.01)
    assert made.state.gaussians.get_xyz.grad is None and not made.rule.entries


def test_disagreement_is_one_less_the_cosine_of_neighbouring_corrections(trainer) -> None:
    made = trainer("disagreement")
    first = half_step(made)
    assert made.rule.signals.tolist() == [1.0] * 4  # nothing was seen before
    apply_update(made.state, first, made.config)
    before, second = dict(made.rule.corrections), half_step(made)
    for region, signal in zip(second.draws.plan.regions.tolist(), made.rule.signals.tolist(), strict=True):
        c = made.rule.corrections[region]
        cosines = [float((c * before[j]).sum() / c.norm() / before[j].norm()) for j in {(region + 1) % 4, (region - 1) % 4}]
        assert signal == pytest.approx(1 - sum(cosines) / 2, abs=1e-4)
    update = apply_update(made.state, second, made.config)
    assert update.cograd["signal"] == pytest.approx(made.rule.signals.tolist())


def test_snr_scales_each_gaussian_by_how_much_its_views_agree(trainer) -> None:
    made = trainer("snr")
    step = compute_gradients(made.state, made.prior, made.prompts, made.config)
    total = made.state.gaussians.get_xyz.grad.clone()
    made.rule.before_update(step)
    g = torch.stack([view.g_main["xyz"] for view in step.views])
    m = g.mean(0)
    power, v = m.square().sum(1), (g - m).square().sum(2).mean(0)
    expected = total * (power / (power + v)).nan_to_num()[:, None]
    assert torch.allclose(made.state.gaussians.get_xyz.grad, expected, rtol=1e-3, atol=1e-4 * float(total.abs().max()))


def test_the_share_is_one_where_views_agree_and_one_of_b_where_one_sees() -> None:
    g = Draws(0).normal(4, 3, 2)
    g[:, 0] = g[0, 0]  # all alike
    g[1:, 1] = 0  # seen by one
    g[:, 2] = 0
    assert search_rules._share(g).tolist() == pytest.approx([1.0, 0.25, 0.0])
