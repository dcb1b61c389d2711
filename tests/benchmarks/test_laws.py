# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the laws: its runs are the page's, missing ones are made, and both tables hold what was measured."""

import re

import cv2
import pytest
import torch

from arguments import GROUPS
from arguments.load import load_config, to_tree
from benchmarks import laws
from distillation import LAWS
from evaluation.experiments import runs
from evaluation.experiments.grid import config_of
from evaluation.experiments.runs import RunFailed
from tests.checkout import ROOT
from tests.red_ball import write_run


def test_a_run_is_the_pages_command() -> None:
    page = (ROOT / "docs/distillation.md").read_text().partition("## On a scene")[2]
    command = re.search(r"python train\.py (--opt toy .*?)#", page.replace("\\\n", " "))[1]
    words = command.replace('"a cyan robot with orange arms"', "PROMPT").split()
    read = load_config([laws.PROMPT if word == "PROMPT" else word for word in words])
    ours = config_of(laws.run_of("ideal", "vsd", True, 300))
    trees = [to_tree(config) for config in (ours, read)]
    apart = {key for group in GROUPS for key in trees[0][group] if trees[0][group][key] != trees[1][group][key]}
    assert apart <= {flag.removeprefix("--") for flag in laws.ABLATION_OUTPUTS}
    assert (ours.seed, ours.guidance.noise_seed) == (read.seed, read.guidance.noise_seed)


@pytest.mark.parametrize("prior", laws.CONFIGS)
def test_every_run_has_settings(prior) -> None:
    made = [laws.run_of(prior, law, cograd, 300) for law in LAWS for cograd in laws.SWITCH]
    assert len({run.name for run in made}) == 30
    for run in made:
        config = config_of(run)
        assert config.guidance.distillation == run.facts["law"] and config.cograd.enabled == run.facts["cograd"]


@pytest.fixture
def without_training(monkeypatch):
    """Each run leaves a red ball, but those of `failing`. The names of the runs that were made."""
    made, failing = [], {"sjc"}

    def run_one(run, sweep, slot):
        if run.facts["law"] in failing:
            raise RunFailed("no memory")
        made.append(run.name)
        measured = sweep.measure(write_run(sweep.folder(run.name), iterations=(5,)), [])
        result = {**run.facts, "flags": list(run.flags), "train_s": 1.0, **measured}
        runs.write_result(sweep.path(run.name), result)
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    monkeypatch.setattr(laws, "SCORE_PX", 16)
    return made, failing


def test_what_is_missing_is_made(tmp_path, capsys, without_training) -> None:
    made, failing = without_training
    words = ["--out", str(tmp_path), "--laws", "sds", "sjc", "--priors", "ideal"]
    assert laws.main(words) == 1
    shown = capsys.readouterr()
    assert shown.out.count("`sjc` | - | - |") == 1 and shown.err.count("no memory") == 4
    sheet = cv2.imread(str(tmp_path / "sheet_ideal.png"))
    assert sheet.shape == (20 + 2 * laws.SIDE_PX, laws.LABEL_PX + 8 * laws.SIDE_PX, 3)
    below = sheet[20 + laws.SIDE_PX :, laws.LABEL_PX :]
    assert below.min() == 255 and sheet[20 : 20 + laws.SIDE_PX, laws.LABEL_PX :].min() < 100
    failing.clear()
    assert laws.main(words) == 0 and len(made) == 4
    row = re.search(r"`sjc` \| ([\d.]+) \| ([\d.]+) \|", capsys.readouterr().out)
    assert row[1] == row[2] and float(row[1]) > 0


def test_a_cell_says_whether_the_object_is_clean() -> None:
    results = [
        {"prior": "ideal", "law": "sds", "cograd": cograd, "scores": {"psnr": 16.26, "clean": cograd}}
        for cograd in (False, True)
    ]
    assert laws.table(results, ["sds"], ["ideal"]).endswith("| `sds` | 16.3 | 16.3, clean |")


def test_the_table_of_colours(monkeypatch) -> None:
    image = torch.tensor([[0.0, 0.5], [0.25, 0.5], [1.0, 0.5]]).view(3, 1, 2)
    assert laws.colours_of(image) == pytest.approx((0.5, 2 / 6))
    monkeypatch.setattr(laws, "CHROMA_PX", 16)
    rows = list(laws.over_saturation((1.0, 30.0), 2))
    assert [row[0].split(",")[0] for row in rows] == ["chroma", "chroma", "at 0 or 1", "at 0 or 1"]
    assert all(len(row) == 4 for row in rows) and rows[0][3] == rows[1][3] != rows[2][3]
    # Without guidance the unconditional text plays no part.
    assert rows[0][1] == rows[1][1] and rows[0][2] != rows[1][2]
