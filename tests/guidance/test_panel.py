# SPDX-License-Identifier: Apache-2.0
"""The panel of train_process/: its layout, and that a broken step can still be drawn."""

import torch

from arguments import GuidanceParams
from guidance.losses import Loss
from guidance.panel import COLUMNS, MARGIN_PX, guidance_panel, saturation
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from utils.random_streams import RandomStreams


def step(seed):
    prior = GaussianMixturePrior(Draws(0).uniform(2, 3, 6, 5), 0.2)
    params = GuidanceParams(text="x", perpneg=False)
    cond = PromptEmbeddings(prior, params).conditioning([0.0, 90.0])
    rgb = Draws(seed).uniform(2, 3, 6, 5).requires_grad_()
    depth, alpha = rgb.detach()[:, :1], rgb.detach()[:, 1:2]
    result = distill_views(
        prior, rgb, depth, alpha, cond, Loss(params), RandomStreams(seed),
        warm_up_rate=0.0, as_latent=False, memory=NoiseMemory(),
    )  # fmt: skip
    return prior, result, rgb, depth, alpha


def tile(panel, view, column, height=6, width=5):
    top, left = MARGIN_PX + view * (height + MARGIN_PX), MARGIN_PX + column * (width + MARGIN_PX)
    return panel[:, top : top + height, left : left + width]


def test_panel_shows_every_piece_in_its_place_whether_flipped_or_not():
    flips = set()
    for seed in range(4):
        prior, result, rgb, depth, alpha = step(seed)
        panel = guidance_panel(prior, result, rgb, depth, alpha)
        assert panel.shape == (3, 2 * (6 + MARGIN_PX) + MARGIN_PX, len(COLUMNS) * (5 + MARGIN_PX) + MARGIN_PX)
        assert panel.min() >= 0 and panel.max() <= 1 and not panel.requires_grad
        previews = result.x0_preview(prior)
        for view in range(2):
            assert torch.equal(tile(panel, view, 0), rgb[view])
            assert torch.equal(tile(panel, view, 1), depth[view].expand(3, -1, -1))
            assert torch.equal(tile(panel, view, 2), alpha[view].expand(3, -1, -1))
            assert torch.equal(tile(panel, view, 6), previews["guided"][view])
            low, high = rgb[view].min(), rgb[view].max()  # latents are 2x - 1 here: stretched, they are the image again
            torch.testing.assert_close(tile(panel, view, 4), (rgb[view] - low) / (high - low), atol=1e-5, rtol=0)
            assert tile(panel, view, 5).max() == 1
        flips.add(bool(result.flip))
    assert flips == {True, False}


def test_previews_of_the_true_image_are_the_image():
    """A prior that knows one image predicts it from any noise, turned back if the step was flipped."""
    image = Draws(0, torch.float64).uniform(1, 3, 4, 4)
    image = (image + image.flip(-1)) / 2
    prior = GaussianMixturePrior(2 * image - 1, 0.0)
    params = GuidanceParams(text="x", perpneg=False, sds=True)
    cond = PromptEmbeddings(prior, params).conditioning([0.0])
    blank = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    result = distill_views(
        prior, image.requires_grad_(), blank, blank, cond, Loss(params), RandomStreams(0),
        warm_up_rate=0.0, as_latent=False, memory=NoiseMemory(),
    )  # fmt: skip
    torch.testing.assert_close(result.x0_preview(prior)["guided"], image.detach(), atol=1e-6, rtol=0)


def test_panel_of_a_broken_step_is_finite():
    prior, result, rgb, depth, alpha = step(0)
    result.grad[0, 0, 0, 0] = float("nan")
    panel = guidance_panel(prior, result, rgb.detach().clone().fill_(float("inf")), depth, alpha)
    assert torch.isfinite(panel).all()


def test_saturation_of_grey_is_zero_and_of_a_pure_colour_one():
    colours = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.8, 0.4, 0.4], [0.0, 0.0, 0.0]]).view(4, 3, 1, 1)
    torch.testing.assert_close(saturation(colours).flatten(), torch.tensor([0.0, 1.0, 0.5, 0.0]))
