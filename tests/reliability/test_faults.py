# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite and scenes that no step can mend, as a user meets them."""

import json
import re

import pytest

import train
from arguments.exit_codes import FINISHED, STOPPED
from scene.gaussian_model import GaussianModel
from tests.reliability.crash import words
from tests.reliability.hooks import faulty_calls, with_state
from tests.reliability.same_run import events, log_lines
from trainer import step as training_step
from trainer.checkpoints import numbered
from utils.tree_file import load_tree

SHORT = {"save_process": False, "test_ratio": 1, "iterations": 14, "max_faults_in_a_row": 3}


def test_a_run_of_faults_goes_back_to_the_checkpoint_with_other_noise(tmp_path, monkeypatch, capsys) -> None:
    assert train.main(words(tmp_path / "sound", sds=True, **SHORT)) == FINISHED
    faulty_calls(monkeypatch, lambda call: call in (10, 11, 12))
    assert train.main(words(tmp_path / "run", sds=True, **SHORT)) == FINISHED
    assert "continuing after step 8" in capsys.readouterr().out
    sound, lines = log_lines(tmp_path / "sound"), log_lines(tmp_path / "run")
    assert [line["iteration"] for line in lines] == list(range(1, 15)) and not any(line["fault"] for line in lines)
    assert lines[:8] == sound[:8] and lines[8]["azimuth_deg"] == sound[8]["azimuth_deg"]
    assert lines[8]["loss"] != sound[8]["loss"]  # the same cameras, other noise
    (event,) = events(tmp_path / "run")
    facts = {"from_step": 12, "to_step": 8}
    assert event.items() >= {"event": "rollback", **facts}.items() and "guidance is not finite" in event["reason"]
    (noted,) = json.loads((tmp_path / "run" / "run.json").read_text())["rollbacks"]
    assert noted.items() >= facts.items() and noted["reason"] == event["reason"]
    assert load_tree(numbered(tmp_path / "run")[0][1])["train"]["rollbacks"] == 1


@pytest.mark.parametrize("faulty", [(8,), (14,), (8, 12, 14)], ids=str)
def test_a_skipped_step_does_not_cost_the_checkpoint_that_is_due(tmp_path, monkeypatch, faulty) -> None:
    """Those of steps 4, 8, 12 and the last are due; the state after a skipped step is as sound as before it."""
    faulty_calls(monkeypatch, lambda call: call in faulty)
    train.main(words(tmp_path / "run", sds=True, keep_checkpoints=9, **SHORT))
    assert [step for step, _ in numbered(tmp_path / "run")] == [14, 12, 8, 4]
    train_state = load_tree(numbered(tmp_path / "run")[0][1])["train"]
    assert train_state["iteration"] == 14 and sum(train_state["skipped"].values()) == len(faulty)


@pytest.mark.parametrize("step", [8, 12])
def test_a_parameter_that_broke_in_a_step_with_a_checkpoint_is_not_saved(tmp_path, monkeypatch, step) -> None:
    def break_xyz(state):
        state.gaussians.parameters_in_order()["xyz"].grad[3] = float("inf")

    saved = []
    sound = train.Recovery.save
    monkeypatch.setattr(train.Recovery, "save", lambda self: saved.append(self.state.iteration) or sound(self))
    with_state(monkeypatch, step, break_xyz)
    assert train.main(words(tmp_path / "run", keep_checkpoints=9, **SHORT)) == FINISHED
    assert saved == [4, 8, 12, 14] and [event["from_step"] for event in events(tmp_path / "run")] == [step]
    for _, path in numbered(tmp_path / "run"):
        assert all(x.isfinite().all() for x in load_tree(path)["train"]["gaussians"]["parameters"].values())


def test_faults_that_come_again_stop_the_run_with_a_diagnosis(tmp_path, monkeypatch, capsys) -> None:
    faulty_calls(monkeypatch, lambda call: call > 9)
    assert train.main(words(tmp_path / "run", sds=True, **SHORT)) == STOPPED
    told = capsys.readouterr()
    assert told.out.count("continuing after step 8") == 1 and "going back to a checkpoint did not help" in told.err
    assert "Met so far: guidance is not finite 6 times" in told.err and "Lower the learning rates" in told.err
    assert (tmp_path / "run" / "point_cloud" / "iteration_11" / "point_cloud.ply").is_file()  # 8 and three faults


def test_a_gradient_that_is_not_finite_is_named_with_view_and_timestep(tmp_path, monkeypatch) -> None:
    sound, taken = training_step.pop_gradient, []

    def faulty(state):
        taken.append(1)
        gradient = sound(state)
        if len(taken) == 6:  # the second view of step 3
            gradient["opacity"][0] = float("nan")
        return gradient

    monkeypatch.setattr(training_step, "pop_gradient", faulty)
    assert train.main(words(tmp_path / "run", **SHORT | {"iterations": 5})) == FINISHED
    lines = log_lines(tmp_path / "run")
    assert [bool(line["fault"]) for line in lines] == [False, False, True, False, False]
    assert lines[2]["fault"] == f"the gradient of opacity is not finite (view 1, timestep {int(lines[2]['t'][1])})"


def test_a_parameter_that_broke_takes_the_run_back_at_once(tmp_path, monkeypatch, capsys) -> None:
    """An infinite number in Adam's input makes a NaN of the parameter, which no later step can heal."""

    def break_xyz(state):
        state.gaussians.parameters_in_order()["xyz"].grad[3] = float("inf")

    with_state(monkeypatch, 11, break_xyz)
    assert train.main(words(tmp_path / "run", **SHORT)) == FINISHED
    told = capsys.readouterr().out
    assert "step 11 skipped: xyz is not finite after the update" in told and "continuing after step 8" in told
    assert [line["iteration"] for line in log_lines(tmp_path / "run")] == list(range(1, 15))


def test_a_parameter_that_broke_before_any_checkpoint_stops_the_run(tmp_path, monkeypatch, capsys) -> None:
    def break_scaling(state):
        state.gaussians.parameters_in_order()["scaling"].grad[:2] = float("inf")

    with_state(monkeypatch, 2, break_scaling)  # before the first scene is saved
    assert train.main(words(tmp_path / "run", **SHORT)) == STOPPED
    told = capsys.readouterr().err
    assert "there is no checkpoint to go back to" in told and "scaling of 2 of 80 Gaussians is not finite" in told
    assert not (tmp_path / "run" / "point_cloud").exists()  # nobody wants that scene


def _make_transparent(state) -> None:
    state.gaussians.parameters_in_order()["opacity"].data.fill_(-20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "every Gaussian was pruned"),
        ({"densify_until_iter": 0}, "3 steps in a row showed empty images"),
    ],
)
def test_a_transparent_scene_is_explained(tmp_path, monkeypatch, capsys, changes, message) -> None:
    with_state(monkeypatch, 4, _make_transparent)
    assert train.main(words(tmp_path / "run", opacity_lr=0, **SHORT | changes)) == STOPPED
    told = capsys.readouterr()
    assert message in told.err and "lower opacity_lr" in told.err
    saved = tmp_path / "run" / "point_cloud" / f"iteration_{7 if changes else 5}" / "point_cloud.ply"
    assert len(GaussianModel.from_ply(saved).get_xyz) > 0
    if not changes:
        assert f"no Gaussians are left after step 5; those before it are saved in {saved}" in told.out


def test_an_explosion_of_points_is_explained(tmp_path, capsys) -> None:
    assert train.main(words(tmp_path / "run", max_points=200, **SHORT)) == STOPPED
    told = capsys.readouterr().err
    points = int(re.search(r"(\d+) Gaussians are more than OptimizationParams.max_points = 200", told)[1])
    assert 200 < points == log_lines(tmp_path / "run")[-1]["points"] and "densify_grad_threshold" in told
    assert (tmp_path / "run" / "point_cloud" / "iteration_10" / "point_cloud.ply").is_file()
