# SPDX-License-Identifier: Apache-2.0
"""tools/search_toy.py: what its candidates change, and the tables of runs that nobody trained."""

import json

import numpy as np
import pytest

import train
from evaluation.ablation.summary import SCORES
from evaluation.experiments import grid, runs
from tools import search_rules, search_toy


@pytest.mark.parametrize("name", search_toy.CANDIDATES)
def test_a_candidate_is_a_variant_with_its_flags(name) -> None:
    candidate, run = search_toy.CANDIDATES[name], search_toy.run_of(name, next(iter(search_toy.OBJECTS)), 2)
    config = grid.config_of(run)
    assert run.facts["variant"] == name and config.seed == 2 and config.optimization.iterations == 400
    assert config.guidance.law_name == candidate.flags.get("distillation", "sds")
    assert config.guidance.front_bias == 0.71 and config.cograd.opposite_views == name.startswith("opposite")


def test_the_tables_compare_every_candidate_with_both(tmp_path, monkeypatch) -> None:
    def run_one(run, sweep, slot):
        better = run.facts["variant"].startswith("opposite")
        scores = dict.fromkeys((*SCORES, "yaw_deg"), 0.5)
        scores |= {"psnr": 20.0 + better, "front_share": 0.25 if better else 1.0, "clean": better}
        result = {**run.facts, "flags": list(run.flags), "train_s": 1.0, "scores": scores, "mechanism": {}}
        runs.write_result(sweep.path(run.name), result)
        return result

    monkeypatch.setattr(runs, "run_one", run_one)
    monkeypatch.setattr(search_toy, "sheet", lambda *_: np.zeros((8, 8, 3), np.uint8))
    for _ in range(2):
        assert search_toy.main(["--out", str(tmp_path), "--seeds", "3"]) == 0
    text = (tmp_path / "search.md").read_text()
    assert "| opposite - full | opposite | full | 12 | 0 | 12 | 0 | 0 | 0.000 |" in text
    assert "| opposite | 12/12" in text and "+1.00 +- 0.00" in text
    assert len(list(tmp_path.glob("*-seed*.json"))) == 12 * len(search_toy.CANDIDATES)
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["scores"]
    assert (tmp_path / "search.csv").read_text().count("\n") == 1 + 12 * len(search_toy.CANDIDATES)


@pytest.mark.parametrize("rule", search_rules.RULES)
def test_every_rule_has_a_candidate_that_trains_by_it(rule) -> None:
    (first, *_) = [made.train for made in search_toy.CANDIDATES.values() if made.rule == rule]
    assert first.func is search_rules.train_by and first.args == (rule,)
    assert search_toy.CANDIDATES["full"].train is train.main


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--jobs", "0"]])
def test_counts_below_one_are_refused_before_a_folder_is_made(tmp_path, capsys, words) -> None:
    assert search_toy.main(["--out", str(tmp_path / "new"), *words]) == 2
    assert f"search_toy: {words[0]} 0: expected a number from 1 to" in capsys.readouterr().err and not (tmp_path / "new").exists()
