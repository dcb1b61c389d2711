# SPDX-License-Identifier: Apache-2.0
"""Runs of a sweep that nobody trained, for the tests of what is made of them."""

import json
import platform
import shutil
from types import SimpleNamespace

import pytest

from evaluation.experiments import runs
from evaluation.reproduction import measure
from tests.red_ball import write_run
from trainer.provenance import versions
from utils.revision import code_revision

LOG = [
    {
        "phase_ms": {"render": 2.0, "guidance": 4.0},
        "points": 3000,
        "unet_timesteps": [7],
        "unet_samples": 8,
        "t": [100, 900],
        "loss_per_view": [2.0, 1.0],
        "fault": None,
    }
] * 3
TRUTH = {"psnr": 20.0, "ssim": 0.9, "iou": 0.95, "detail": 0.5, "front_share": None, "clean": None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder and what its JSON says, of a scene that was never trained."""
    folder = write_run(tmp_path_factory.mktemp("finished") / "run", (5,))
    record = {"revision": code_revision(), "device": "none", "platform": platform.platform()}
    record |= {"python": platform.python_version(), "versions": versions()}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "cograd").mkdir()
    result = measure.measure(folder, LOG, "sd", 24)
    shutil.copy(folder / "report" / "views.jpg", folder / "cograd" / "regions_3.png")
    return folder, {**result, "train_s": 7.0, "cpu_s": 6.0}


@pytest.fixture
def pretended(monkeypatch, finished):
    """run_one that trains nothing: the names that were asked for; a variant in `failing` fails."""
    asked = SimpleNamespace(names=[], failing=set())

    def run_one(run, sweep, slot):
        asked.names.append(run.name)
        if run.facts["variant"] in asked.failing:
            raise runs.RunFailed("train.py ended with status 1: <no> memory")
        shutil.copytree(finished[0], sweep.folder(run.name), dirs_exist_ok=True)
        truth = {**TRUTH, "psnr": 20.0 + run.facts["seed"] + (run.facts["variant"] == "full")}
        result = {
            **run.facts,
            "flags": list(run.flags),
            **finished[1],
            "known_truth": None if run.facts["prior"] == "sd" else truth,
        }
        runs.write_result(sweep.path(run.name), result)
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    return asked
