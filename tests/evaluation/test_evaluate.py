# SPDX-License-Identifier: Apache-2.0
"""tools/evaluate.py on a run folder and the tiny models: orbits, table, JSON, what is missing; never a zero."""

import json
import shutil

import numpy as np
import pytest

from evaluation import run_folder
from evaluation.run_folder import config_of_run, gaussians_of_run, orbit
from tests.red_ball import write_run
from tools import evaluate


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", (5,))


def test_an_orbit_starts_at_the_front_and_has_the_asked_size(run) -> None:
    config = config_of_run(run)
    views = orbit(gaussians_of_run(run, config), config, 6, 32)
    assert views.shape == (6, 32, 32, 3) and views.dtype == np.uint8
    assert (views[:, 0, 0] == 255).all() and (views[:, 16, 16, 0] > 100).all() and (views[:, 16, 16, 1] < 60).all()
    twice = orbit(gaussians_of_run(run, config), config, 3, 32)
    np.testing.assert_array_equal(twice, views[::2])  # evenly spaced
    assert orbit(gaussians_of_run(run, config), config, 1).shape == (1, 512, 512, 3)


def test_a_run_is_measured(run, weights, monkeypatch, capsys) -> None:
    asked = []

    def small(gaussians, config, count):
        asked.append(count)
        return orbit(gaussians, config, 3, 32)

    monkeypatch.setattr(run_folder, "orbit", small)
    out = run / "scores.json"
    names = ["clip_b32", "vqascore", "image_reward"]
    assert (
        evaluate.main([str(run), "--weights", str(weights), "--metrics", *names, "--json", str(out), "--device", "cpu"])
        == 0
    )
    scores = json.loads(out.read_text())[str(run)]
    assert asked == [120, 6, 6] and list(scores) == names
    assert 0 < scores["vqascore"]["mean"] < 1 and all(score["std"] >= 0 for score in scores.values())
    assert "CLIP B/32" in capsys.readouterr().out


def test_a_missing_metric_is_told_and_is_no_number(run, weights, tmp_path, capsys) -> None:
    shutil.copytree(weights / "clip-vit-base-patch32", tmp_path / "some" / "clip-vit-large-patch14")
    out = run / "scores.json"
    words = [str(run), "--weights", str(tmp_path / "some"), "--metrics", "image_reward", "--json", str(out)]
    assert evaluate.main(words) == 1
    assert json.loads(out.read_text())[str(run)]["image_reward"].startswith("missing: ")
    assert "missing: " in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_told_before_weights_load(tmp_path, capsys) -> None:
    assert evaluate.main([str(tmp_path)]) == 2
    assert "evaluate: " in capsys.readouterr().err
