# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from guidance.analytic import GaussianMixturePrior


@pytest.fixture
def prior() -> GaussianMixturePrior:
    """Two means in the space of 16 x 16 images."""
    return GaussianMixturePrior(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)), std=0.3)
