# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from trainer.faults import FaultWatch, TrainingStopped, extremes

SEEN, EMPTY = torch.full((2, 1, 4, 4), 0.5), torch.ones(2, 1, 4, 4)


def test_faults_in_a_row_are_too_many_and_sound_steps_forgive_them() -> None:
    watch = FaultWatch(limit=3, max_points=10)
    answers = [watch.is_lost(fault, None) for fault in ("a", "a", None, "a", "b", "a")]
    assert answers == [False, False, False, False, False, True]
    watch.restart()
    assert not watch.is_lost("a", None) and watch.is_lost("a", "xyz")  # a broken parameter is one too many at once


def test_empty_pictures_are_too_many_in_a_row_only() -> None:
    watch = FaultWatch(limit=3, max_points=10)
    for transmittances in (EMPTY, EMPTY, SEEN, EMPTY, EMPTY, torch.full_like(EMPTY, float("nan")), EMPTY, EMPTY):
        watch.check_scene(5, transmittances)
    with pytest.raises(TrainingStopped, match="3 steps in a row showed empty images"):
        watch.check_scene(5, EMPTY)


@pytest.mark.parametrize(("points", "message"), [(0, "every Gaussian was pruned"), (11, "11 Gaussians are more than")])
def test_no_points_and_too_many(points, message) -> None:
    with pytest.raises(TrainingStopped, match=message):
        FaultWatch(limit=3, max_points=10).check_scene(points, SEEN)
    FaultWatch(limit=3, max_points=10).check_scene(10, SEEN)


def test_the_diagnosis_names_faults_and_parameters() -> None:
    watch = FaultWatch(limit=2, max_points=10)
    for fault in (
        "total is not finite (views [0], timesteps [7])",
        "total is not finite (views all, timesteps [9])",
        "x (y)",
    ):
        watch.is_lost(fault, None)
    xyz, opacity = torch.zeros(4, 3), torch.zeros(4, 1)
    xyz[1, 2], opacity[0, 0] = float("nan"), -3e7
    told = watch.diagnosis("x (y)", {"xyz": xyz, "opacity": opacity, "f_rest": torch.zeros(4, 0, 3)}, rolled_back=False)
    assert "total is not finite 2 times, x 1 time" in told and "the last one because x (y)" in told
    assert "xyz of 1 of 4 Gaussians is not finite; opacity reaches 3e+07" in told and "no checkpoint" in told
    assert "Parameters and their activations are finite" in watch.diagnosis("x", {"xyz": torch.ones(2, 3)}, rolled_back=True)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("scaling", 90.0, "scaling reaches 90: it is a logarithm, and the squared size exp(2 * scaling) of 1 of 4 Gaussians overflows"),
        ("scaling", 45.0, "scaling reaches 45: it is a logarithm"),  # its square overflows first
        ("scaling", 44.0, "Parameters and their activations are finite"),
        ("rotation", 0.0, "rotation of 1 of 4 Gaussians has length 0"),
        ("xyz", 90.0, "Parameters and their activations are finite"),
        ("xyz", float("inf"), "xyz of 1 of 4 Gaussians is not finite"),
    ],
)
def test_activations_that_overflow_are_named(name, value, told) -> None:
    x = torch.full((4, 3), 0.1)
    x[2] = value
    assert extremes({"other": torch.ones(4, 1), name: x}).startswith(told)


def test_one_is_one() -> None:
    watch = FaultWatch(limit=1, max_points=10)
    watch.is_lost("x (y)", None)
    told = watch.diagnosis("x (y)", {"xyz": torch.full((1, 3), float("nan"))}, rolled_back=False)
    assert told.startswith("1 step in a row was not finite") and "x 1 time." in told and "1 of 1 Gaussian is" in told
    with pytest.raises(TrainingStopped, match="1 step in a row showed"):
        watch.check_scene(5, EMPTY)
