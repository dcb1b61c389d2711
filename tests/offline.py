# SPDX-License-Identifier: Apache-2.0
"""No test may reach a network, or a cache of models that happens to be on the machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def no_network(folder: Path) -> Iterator[None]:
    """Inside, the hub client is offline and its cache is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", os.fspath(folder / "hub"))
        patch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_OFFLINE", True, raising=False)
        yield
