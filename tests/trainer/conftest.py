# SPDX-License-Identifier: Apache-2.0
import pytest

from guidance.analytic import GaussianMixturePrior
from tests.drawn import Draws


@pytest.fixture
def prior() -> GaussianMixturePrior:
    """Two means in the space of 16 x 16 images."""
    return GaussianMixturePrior(Draws(3).normal(2, 3, 16, 16), std=0.3)
