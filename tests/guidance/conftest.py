# SPDX-License-Identifier: Apache-2.0
"""Guidance tests run on one thread: their tensors are tiny, and a second thread on a busy machine waits 100 times longer."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
