# SPDX-License-Identifier: Apache-2.0
"""What the paper measures on a finished scene (A.2), and the toy world's yardstick. docs/evaluation.md says more.

A learned metric is a name in METRICS. load_metric makes it a function of images and a prompt; its weights are looked
for only then, and MetricUnavailable says in one sentence why they are not available.

Letters: V images of one scene.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.weights import MetricUnavailable

__all__ = ["METRICS", "PAPER_METRICS", "Metric", "MetricKind", "MetricUnavailable", "load_metric", "over_views"]

Metric = Callable[[np.ndarray, str], np.ndarray]
"""(images, uint8 [V, H, W, 3] RGB; prompt) -> a score for each image, float64 [V]."""


@dataclass(frozen=True)
class MetricKind:
    """How a learned metric is measured: on `views` images of an orbit, evenly spaced."""

    title: str
    views: int
    has_std: bool  # the paper prints the spread over the views
    source: str  # where the weights come from: a hub repository, or a file of one
    download_gb: float
    module: str
    in_paper: bool = True


METRICS: dict[str, MetricKind] = {
    "clip_b32": MetricKind("CLIP B/32", 120, True, "openai/clip-vit-base-patch32", 0.6, "clip_similarity"),
    "clip_l14": MetricKind("CLIP L/14", 120, True, "openai/clip-vit-large-patch14", 1.7, "clip_similarity"),
    "vqascore": MetricKind("VQAScore", 6, False, "zhiqiulin/clip-flant5-xl", 13.5, "vqascore"),
    "image_reward": MetricKind("ImageReward", 6, False, "THUDM/ImageReward", 1.8, "image_reward"),
    "pick_score": MetricKind("PickScore", 6, False, "yuvalkirstain/PickScore_v1", 4.0, "pick_score", False),
    "hps_v2": MetricKind("HPSv2", 6, False, "xswu/HPSv2/HPS_v2_compressed.pt", 2.0, "hps", False),
    "hps_v21": MetricKind("HPSv2.1", 6, False, "xswu/HPSv2/HPS_v2.1_compressed.pt", 2.0, "hps", False),
}

PAPER_METRICS = [name for name, kind in METRICS.items() if kind.in_paper]


def load_metric(name: str, device: str | torch.device = "cpu", folder: Path | None = None) -> Metric:
    """The metric, ready to be called. `folder` holds repositories under the last part of their names, else the hub.

    Raises MetricUnavailable where the weights are not available, KeyError for a name that METRICS lacks.
    """
    kind = METRICS[name]
    return importlib.import_module(f"evaluation.{kind.module}").load(torch.device(device), folder, kind.source)


def over_views(scores: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation (n - 1; 0 for one view) of the scores [V] of one scene."""
    return {"mean": float(np.mean(scores)), "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0}
