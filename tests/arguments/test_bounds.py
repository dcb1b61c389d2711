# SPDX-License-Identifier: Apache-2.0
"""Every number among the settings has an end on both sides; beyond it a setting is refused, at it nothing breaks."""

import dataclasses
import math
import typing

import pytest
import torch

from arguments import GROUPS, Config
from arguments.declare import keys_of
from arguments.load import ConfigError, load_config
from guidance.sd_step import scaled_linear_alphas
from trainer.memory_estimate import estimate
from trainer.startup import read_settings
from trainer.state import TrainState
from trainer.step import prepare_schedules

IDEAL = ["--opt", "configs/quickstart.yaml"]
GB, CPU = 10**9, torch.device("cpu")


def numbers():
    """(label, whether a pair, KeySpec) of every numeric key."""
    for group, declared in (("", Config), *((group, declared) for group, (_, declared) in GROUPS.items())):
        for key, (kind, spec, _) in keys_of(declared).items():
            kinds = (kind, *typing.get_args(kind))
            if int in kinds or float in kinds:
                pair = typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind)
                yield pytest.param(f"{group}.{key}" if group else key, pair, spec, int in kinds, id=key)


@pytest.mark.parametrize(("label", "pair", "spec", "whole"), [*numbers()])
def test_a_number_beyond_its_bounds_is_refused(label, pair, spec, whole):
    assert spec.lo is not None or spec.above is not None, "no lower bound"
    assert spec.hi is not None or spec.below is not None, "no upper bound"
    absurd = ["1e30", "-1e30", "inf", "-inf", "nan", "9" * 400, "-" + "9" * 400]
    absurd += [] if label.endswith("seed") else ["1000000000000"]
    for value in absurd:
        with pytest.raises(ConfigError, match=f"{label} = .*expected"):
            load_config(["--text", "x", f"--{label}=" + (f"{value},{value}" if pair else value)])


@pytest.mark.parametrize(("label", "pair", "spec", "whole"), [*numbers()])
def test_a_number_at_its_bounds_is_read_or_contradicts_another(label, pair, spec, whole):
    for end in (spec.lo if spec.lo is not None else spec.above, spec.hi if spec.hi is not None else spec.below):
        inside = end if spec.allows(end) else math.nextafter(end, 1.0)
        number = repr(int(inside) if whole else inside)
        words = [*IDEAL, "--device", "cpu", "--image_w", "16", "--image_h", "16", "--init_num_pts", "50"]
        try:
            config = read_settings([*words, f"--{label}=" + (f"{number},{number}" if pair else number)])
        except ConfigError as refused:
            assert len(refused.problems) <= 3 and all("expected" in problem for problem in refused.problems)
            continue
        if sum(estimate(config, CPU, None).values()) < GB // 2:
            draw_a_step(config)


def draw_a_step(config):
    """A start without a prior, and the regions, timesteps and cameras of a step in which ranges are widened."""
    opt = dataclasses.replace(config.optimization, use_progressive=False)
    config = dataclasses.replace(config, optimization=opt)
    state = TrainState.start(config, "cpu", writes=False, has_stale_points=True)
    state.begin_cograd(config, scaled_linear_alphas())
    for step in (1, max(opt.progressive_view_iter, 1) * opt.scale_up_cameras_iter):
        state.iteration = step
        prepare_schedules(state, config)
    cameras = state.scene.getRandTrainCameras(state.streams) + state.scene.getTestCameras()
    if state.cograd is not None:
        plan = state.cograd.plan(1, config.guidance.C_batch_size, state.streams.torch)
        assert plan.t.min() >= 0
        poses = state.cograd.grid.sample_poses(plan.regions, state.streams.torch)
        cameras += state.scene.cameras_at(poses.theta_deg, poses.phi_deg, poses.radius, state.streams)
    for camera in cameras:
        assert 0 < camera.FoVx < math.pi and 0 < camera.FoVy < math.pi
        assert camera.full_proj_transform.isfinite().all() and camera.camera_center.isfinite().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num_train_timesteps 1000000000000", "num_train_timesteps = '1000000000000': expected"),
        ("--num_train_timesteps 1001", "num_train_timesteps = 1001: expected at most 1000, which this model has"),
        ("--num_train_timesteps 1 --CoGradParams.enabled false", "expected a range with a timestep in it, of 1"),
        ("--t_range 0.5 0.5001 --CoGradParams.enabled false", "expected a range with a timestep in it, of 1000"),
        (
            "--elevation_levels 180 --azimuth_levels 720 --distance_levels 64",
            "180 x 720 x 64 = 8,294,400: expected at most 100,000 regions",
        ),
        ("--init_num_pts 50000001", "init_num_pts = '50000001': expected"),
    ],
)
def test_what_no_run_can_be_is_refused_with_the_settings(words, message):
    with pytest.raises(ConfigError, match=message):
        read_settings([*IDEAL, *words.split()])
