# SPDX-License-Identifier: Apache-2.0
"""Path of this folder's helpers, and one folder of tiny repositories for all tests of the metrics."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny_models as tiny

from evaluation import image_reward


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_clip(folder, "clip-vit-base-patch32")
    tiny.write_vqascore(folder)
    tiny.write_image_reward(folder)
    return folder


@pytest.fixture(autouse=True)
def two_heads(monkeypatch):
    """The tiny ImageReward has two heads; a checkpoint does not tell how many."""
    monkeypatch.setattr(image_reward, "VISION_HEADS", 2)
    monkeypatch.setattr(image_reward, "TEXT_HEADS", 2)
