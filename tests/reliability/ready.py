# SPDX-License-Identifier: Apache-2.0
"""Imported by a fork server alone: train.py's imports, those that a first optimizer and a first log make late, and the images
of the small run's prior, which its runs find again."""

from pathlib import Path

import torch
import torch._dynamo
import torch.utils.tensorboard

import tests.rendered_once  # noqa: F401
import train  # noqa: F401
from arguments.load import load_config
from tests.reliability.crash import words
from toy.ideal import IdealPrior

torch.set_num_threads(1)
_config = load_config(words(Path("nowhere")))
IdealPrior(_config.guidance, "cpu", _config.cameras.image_w, _config.cameras)
