# SPDX-License-Identifier: Apache-2.0
"""A lens that crops the initial ball, and regions beside the settings' own cameras, are reported; the files of configs/ are not."""

import dataclasses
from pathlib import Path

import pytest
import torch

from arguments.load import load_config
from scene.dataset_readers import CameraRanges, random_cameras
from scene.view_space import BALL_RADIUS, LEAST_WHOLE, share_whole, view_notices
from utils.random_streams import RandomStreams

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
COGRAD_ON = ["--CoGradParams.enabled", "true"]
LENS, WIDEST = ["--fovy_range", "0.85", "1.1"], ["--max_fovy_range", "0.85", "1.1"]


def notices(name: str, *words: str) -> list[str]:
    return view_notices(load_config(["--opt", f"configs/{name}.yaml", *words]))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_settings_file_is_reported_as_it_is(path) -> None:
    assert notices(path.stem) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_cograd_turned_on_beside_lucid_dreamers_cameras_is(path) -> None:
    """Of every file whose lens or distances are LucidDreamer's, and of no other."""
    config = load_config(["--opt", str(path)])
    fits = config.cograd.enabled or config.cograd.distance_range != (1.5, 2.0)
    found = notices(path.stem, *COGRAD_ON)
    assert bool(found) != fits
    if path.stem == "hifa":
        regions, lens = found
        assert regions == (
            "the settings' cameras have distances 5.2..5.5, CoGrad's regions 1.5..2; set CoGradParams.distance_range to 5.2 5.5, "
            "or start from configs/prompt.yaml"
        )
        assert lens.startswith("only 11 % of the views hold the whole initial ball, of radius 0.5: at distance 1.5 it fills 0.68 rad")
        assert "begin GenerateCamParams.fovy_range and max_fovy_range at 0.85, or set CoGradParams.distance_range" in lens


def test_what_the_notices_advise_ends_them() -> None:
    assert notices("hifa", *COGRAD_ON, "--distance_range", "5.2", "5.5") == []
    [regions] = notices("hifa", *COGRAD_ON, *LENS, *WIDEST)
    assert "distances" in regions
    assert notices("gaussiandreamer", *COGRAD_ON, "--distance_range", "1.5", "4") == []


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--radius_range", "1.5", "2"], "only 11 % of the views hold the whole initial ball, of"),
        (["--radius_range", "1.5", "4", "--max_radius_range", "1.5", "4"], "only 69 % of the views hold the whole initial ball, of"),
        (["--fovy_range", "0.1", "0.2"], "only 12 % of the views hold the whole initial ball, of"),
        (["--radius_range", "0.3", "0.4"], "only 0 % of the views hold the whole initial ball, of"),
        (["--image_w", "64", "--image_h", "256"], "only 0 % of the views hold the whole initial ball, of"),
        (["--image_w", "256", "--image_h", "64"], ""),
        (["--max_radius_range", "1.5", "2"], "only 57 % of the views hold the whole initial ball once the ranges are widened"),
        (["--max_radius_range", "1.5", "2", "--use_progressive", "true"], ""),
        (["--radius_range", "1.5", "2", "--max_radius_range", "1.5", "2", *LENS], "once the ranges are widened"),
        (["--radius_range", "1.5", "2", "--max_radius_range", "1.5", "2", *LENS, *WIDEST], ""),
        (["--radius_range", "1.5", "2", "--init_shape", "scene"], ""),
    ],
)
def test_distance_lens_aspect_and_widening_decide(words, reported) -> None:
    found = notices("luciddreamer", *words)
    assert len(found) == bool(reported) and all(reported in notice for notice in found), found


def test_elevations_beside_the_regions_are_reported() -> None:
    [found] = notices("prompt", "--theta_range", "140", "160")
    assert "elevations -70..-50, CoGrad's regions -30..60; set CoGradParams.elevation_range to -70 -50" in found


@pytest.mark.parametrize(("width", "height"), [(32, 32), (24, 32), (32, 24)])
def test_the_share_is_that_of_cameras_as_training_draws_them(width, height) -> None:
    """Of 400 cameras without jitter, each with a lens of its own; five standard errors."""
    cameras = dataclasses.replace(
        load_config(["--text", "x"]).cameras, radius_range=(1.5, 4.0), jitter_pose=False, image_w=width, image_h=height
    )
    streams, ball = RandomStreams(0), torch.nn.functional.normalize(RandomStreams(1).randn(500, 3), dim=1) * BALL_RADIUS
    points = torch.cat([ball, torch.ones(len(ball), 1)], dim=1)
    whole = []
    for _ in range(400):
        [camera] = random_cameras(cameras, CameraRanges.from_params(cameras), 1, streams, "cpu")
        seen = points @ camera.full_proj_transform
        whole.append(bool((seen[:, :2].abs() <= seen[:, 3:]).all()))
    share = share_whole(cameras.radius_range, cameras.fovy_range, width / height)
    assert sum(whole) / len(whole) == pytest.approx(share, abs=5 * 0.5 / 400**0.5)
    assert LEAST_WHOLE > share > 0.4
