# SPDX-License-Identifier: Apache-2.0
"""Gaussians whose extent ends exactly on a border of tiles, on a grid that is not square: which tiles take them.

The original's rule: the square of the radius r around the centre c touches the tiles from trunc((c - r) / 16) to
trunc((c + r + 15) / 16), the last one excluded. All numbers here are exact in float32, so the centre lies on a border or
2^-16 px beside it, and what is drawn is known pixel by pixel. With a radius of 30 px the tile in question holds pixels of
alpha above 1/255, so a wrong decision shows.
"""

import numpy as np
import pytest
import torch
from raster_scenes import Scene, run_extension, run_views
from reference import View

from tests.drawn import Draws

pytestmark = pytest.mark.usefixtures("each_backend")

WIDTH, HEIGHT, TILE, RADIUS, DEPTH = 128, 64, 16, 30, 4.0
BESIDE = 2.0**-16
OPACITY, COLOUR = 0.75, (0.5, 1.0, 0.25)
SMALLEST_ALPHA = 1 / 255
# Variance in px^2 of a round Gaussian of that radius: r = ceil(3 sqrt(variance + sqrt(0.1))).
VARIANCE = ((RADIUS - 0.1) / 3) ** 2 - 0.1**0.5
# Centre along the axis, so that the extent ends on a border: its low end at the tile 1, its high end at the tile 5 or 3.
CENTRES = {("x", "low"): 46.0, ("x", "high"): 51.0, ("y", "low"): 46.0, ("y", "high"): 19.0}
MIDDLE = {"x": 60.5, "y": 28.5}  # along the other axis, away from borders


def scene_at(x_px: float, y_px: float, weights: torch.Tensor | None = None) -> Scene:
    """One round Gaussian with its centre exactly there, seen by a camera at the origin that looks along z."""
    tan_x, tan_y = 1.0, HEIGHT / WIDTH
    proj = torch.zeros(4, 4)
    proj[0, 0], proj[1, 1], proj[2, 2], proj[2, 3], proj[3, 2] = 1 / tan_x, 1 / tan_y, 1, 1, -0.01
    view = View(HEIGHT, WIDTH, tan_x, tan_y, torch.zeros(3), torch.eye(4), proj, torch.zeros(3), 0)
    ndc = (2 * x_px + 1) / WIDTH - 1, (2 * y_px + 1) / HEIGHT - 1
    variance = (VARIANCE - 0.3) * (DEPTH / (WIDTH / 2)) ** 2  # the rasterizer adds 0.3 px^2
    inputs = {
        "means3D": torch.tensor([[ndc[0] * tan_x * DEPTH, ndc[1] * tan_y * DEPTH, DEPTH]]),
        "opacities": torch.tensor([[OPACITY]]),
        "cov3D_precomp": torch.tensor([[variance, 0, 0, variance, 0, 0]]),
        "colors_precomp": torch.tensor([COLOUR]),
    }
    return Scene(inputs, view, torch.zeros(5, HEIGHT, WIDTH) if weights is None else weights)


def tiles_of(centre_px: float, n_tiles: int) -> range:
    """The rule, in exact arithmetic."""
    first, last = int((centre_px - RADIUS) / TILE), int((centre_px + RADIUS + TILE - 1) / TILE)
    return range(max(first, 0), min(last, n_tiles))


def expected_alpha(x_px: float, y_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Alpha [H, W] in float64, 0 outside of the tiles, and the pixels where float32 may decide otherwise about 1/255."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    alpha = OPACITY * np.exp(-((x - x_px) ** 2 + (y - y_px) ** 2) / (2 * VARIANCE))
    in_tiles = np.isin(x // TILE, tiles_of(x_px, WIDTH // TILE)) & np.isin(y // TILE, tiles_of(y_px, HEIGHT // TILE))
    return np.where(in_tiles & (alpha >= SMALLEST_ALPHA), alpha, 0), np.abs(alpha - SMALLEST_ALPHA) < 1e-5


def centre_of(axis: str, side: str, beside: float) -> tuple[float, float]:
    along = CENTRES[axis, side] + beside
    return (along, MIDDLE["y"]) if axis == "x" else (MIDDLE["x"], along)


@pytest.mark.parametrize("beside", [-BESIDE, 0.0, BESIDE])
@pytest.mark.parametrize(("axis", "side"), CENTRES)
def test_which_tiles_take_it(axis, side, beside):
    """Colour, transmittance, radius, and the gradients of opacity and colour, which are sums over the pixels drawn."""
    centre = centre_of(axis, side, beside)
    alpha, uncertain = expected_alpha(*centre)
    weights = Draws(7).normal(5, HEIGHT, WIDTH) * torch.from_numpy(~uncertain)
    result = run_extension(scene_at(*centre, weights))
    assert result.radii.tolist() == [RADIUS]
    image = np.concatenate([np.multiply.outer(COLOUR, alpha), (DEPTH * alpha)[None], 1 - alpha[None]])
    np.testing.assert_allclose(result.images.numpy()[:, ~uncertain], image[:, ~uncertain], rtol=0, atol=2e-5)
    w = weights.double().numpy()
    colour_and_depth = np.tensordot([*COLOUR, DEPTH], w[:4], 1) - w[4]
    scale = np.abs(w).sum() * 1e-6
    assert float(result.gradients["opacities"]) == pytest.approx((colour_and_depth * alpha).sum() / OPACITY, abs=scale)
    assert result.gradients["colors_precomp"][0].tolist() == pytest.approx((w[:3] * alpha).sum((1, 2)), abs=scale)


@pytest.mark.parametrize(("axis", "side"), CENTRES)
def test_the_border_decides_about_visible_pixels(axis, side):
    """Guards the test above: a step of 2^-16 px over the border adds or takes away a tile with something in it."""
    drawn = {}
    for beside in (-BESIDE, 0.0, BESIDE):
        alpha, _ = expected_alpha(*centre_of(axis, side, beside))
        drawn[beside] = np.count_nonzero(alpha)
    on_border_as = BESIDE  # both ends: a centre on the border is drawn like one behind it
    assert drawn[0.0] == drawn[on_border_as]
    assert abs(drawn[-BESIDE] - drawn[BESIDE]) >= 10


def test_views_rendered_together_decide_alike():
    scenes = [
        scene_at(*centre_of(axis, side, beside), Draws(8).normal(5, HEIGHT, WIDTH))
        for axis, side in CENTRES
        for beside in (-BESIDE, 0.0, BESIDE)
    ]
    for together, scene in zip(run_views(scenes), scenes, strict=True):
        alone = run_extension(scene)
        assert torch.equal(together.images, alone.images)
        assert all(torch.equal(g, alone.gradients[name]) for name, g in together.gradients.items())
