# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from tests.drawn import Draws
from utils.loss_utils import tv_loss


def test_tv_by_hand() -> None:
    x = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]]).reshape(1, 1, 2, 3)
    dh, dw = (0 + 1 + 9) / 3, (1 + 4 + 0 + 0) / 4
    assert float(tv_loss(x)) == pytest.approx(2 * (dh + dw))


def test_tv_is_a_mean_over_views_and_channels() -> None:
    x = Draws(0).uniform(1, 1, 5, 4)
    assert torch.allclose(tv_loss(x.expand(3, 2, 5, 4)), tv_loss(x))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 1, 1, 4)])
def test_tv_of_a_single_row_is_finite(shape) -> None:
    assert bool(tv_loss(Draws(0).uniform(*shape)).isfinite())
