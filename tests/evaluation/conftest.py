# SPDX-License-Identifier: Apache-2.0
"""Path of this folder's helpers, and one folder of tiny repositories for all tests of the metrics."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import open_clip_reference as open_clip
import tiny_models as tiny

from evaluation import hps, image_reward


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_clip(folder, "clip-vit-base-patch32")
    tiny.write_vqascore(folder)
    tiny.write_image_reward(folder)
    tiny.write_clip(folder, "PickScore_v1")
    open_clip.write_hps(folder)
    return folder


@pytest.fixture(autouse=True)
def two_heads(monkeypatch):
    """The tiny models have two heads; a checkpoint of ImageReward or HPSv2 does not tell how many."""
    for module in (image_reward, hps):
        monkeypatch.setattr(module, "VISION_HEADS", 2)
        monkeypatch.setattr(module, "TEXT_HEADS", 2)
