# SPDX-License-Identifier: Apache-2.0
"""The automatic Janus rate: how many of a set of scenes are flagged, and how often such a flag is right.

Labels of people (evaluation/janus_sheet.py) remain the reference. The threshold of `order`, and what it gets right on
toy scenes of known fronts, are those of janus_calibration.json, written by `python -m tests.evaluation.janus_roc`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arguments import Config
from evaluation import Metric
from evaluation.janus import Rate, share
from evaluation.known_truth import renderer_of_gaussians
from evaluation.run_folder import config_of_run, gaussians_of_run, orbit
from evaluation.view_order import SIDE_PX, VIEWS, order
from evaluation.view_words import second_front, view_probabilities
from scene.gaussian_model import GaussianModel
from toy.raycast import View
from trainer.run_records import read_object

CALIBRATION = Path(__file__).with_name("janus_calibration.json")
MEASURED_ON = "clouds"
"""The scenes of the calibration that are most like a finished run: clouds of toy runs."""

CLEAN = {"sensitivity": (770, 770), "specificity": (70, 70)}
"""Of the toy world's yardstick, from benchmarks/results/yardstick.csv."""


@dataclass(frozen=True)
class Flag:
    """What one measure says of one scene: its number, and whether that means Janus (None: it shows nothing)."""

    value: float
    janus: bool | None


def calibration() -> dict[str, Any]:
    """Of `order`: threshold, and by kind of scene [right, of all] of sensitivity and specificity."""
    return read_object(CALIBRATION)["order"]


def flag_by_order(gaussians: GaussianModel, config: Config) -> Flag:
    """By the measure without weights, from views of a turn at the run's default pose."""
    cameras = config.cameras
    pose = cameras.default_radius, cameras.default_fovy
    views = [View(cameras.default_polar, 360 * k / VIEWS, *pose) for k in range(VIEWS)]
    images, coverage = renderer_of_gaussians(gaussians)(views, SIDE_PX)
    value = order(np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1), coverage)
    return flag_of_order(None if math.isnan(value) else value)


def flag_by_words(gaussians: GaussianModel, config: Config, clip: Metric) -> Flag:
    """By view words, with a CLIP metric, from views of a turn as the run's test views."""
    probability = view_probabilities(clip, orbit(gaussians, config, VIEWS), config.guidance.text)
    value = second_front(probability)
    return Flag(value, value > 0)


def flags_of(run: Path, device: torch.device, clip: Metric | None) -> dict[str, Flag]:
    """Measure -> what it says of the run folder's last cloud; `words` only where there is a CLIP. Raises ValueError."""
    config = config_of_run(run)
    gaussians = gaussians_of_run(run, config, device)
    found = {"order": flag_by_order(gaussians, config)}
    return found if clip is None else {**found, "words": flag_by_words(gaussians, config, clip)}


def flag_of_order(value: float | None) -> Flag:
    """Of a stored number; None: the scene shows nothing."""
    return Flag(math.nan, None) if value is None else Flag(value, value < calibration()["threshold"])


def rate_of(flags: Sequence[Flag]) -> Rate:
    """Flagged scenes; those that show nothing are counted as unsure."""
    known = [flag.janus for flag in flags if flag.janus is not None]
    return Rate(sum(known), len(known), len(flags) - len(known))


def rates_by_variant(flags: Mapping[str, Mapping[str, Flag]]) -> dict[tuple[str, str], Rate]:
    """(variant, measure) -> rate, of run name -> measure -> flag. A run's variant is its name up to the first "-"."""
    gathered: dict[tuple[str, str], list[Flag]] = {}
    for name, own in flags.items():
        for measure, flag in own.items():
            gathered.setdefault((name.split("-")[0], measure), []).append(flag)
    return {key: rate_of(some) for key, some in gathered.items()}


def accuracy_text(measure: str) -> str:
    """How often a flag of the measure is right, for printing beside a rate."""
    if measure == "clean":
        shares = (f"{name} {share(*CLEAN[name])}" for name in CLEAN)
        return f"Not being clean as a sign of Janus, on scenes of known truth: {', '.join(shares)}"
    if measure == "words":
        return "sensitivity and specificity not measured: no CLIP weights were available"
    own = calibration()["scenes"][MEASURED_ON]
    shares = (f"{name} {share(*own[name])}" for name in ("sensitivity", "specificity"))
    return f"on toy runs of known fronts: {', '.join(shares)}"
