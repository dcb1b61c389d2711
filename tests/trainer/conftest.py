# SPDX-License-Identifier: Apache-2.0
import pytest

from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior


@pytest.fixture
def prior() -> GaussianMixturePrior:
    """Two means in the space of 16 x 16 images."""
    return GaussianMixturePrior(Draws(3).normal(2, 3, 16, 16), std=0.3)
