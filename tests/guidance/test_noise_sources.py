# SPDX-License-Identifier: Apache-2.0
"""Where the noise comes from: fresh, one for the whole run, or a function of the camera; all three in a checkpoint."""

import dataclasses

import pytest
import torch

from arguments import GuidanceParams
from guidance.predictor import Cameras
from guidance.score import NoiseMemory, draw_noise, noise_of_cameras
from scene.cameras import spherical
from tests.drawn import Draws
from utils.random_streams import RandomStreams

PARAMS = GuidanceParams(text="x", perpneg=False)


def drawn(source, streams, memory, cameras=None, size=4, views=3, **changes):
    params = dataclasses.replace(PARAMS, noise_source=source, **changes)
    return draw_noise(torch.zeros(views, 3, size, size), views, params, streams, memory, cameras)


@pytest.mark.parametrize("perpneg", [False, True])
def test_a_fixed_noise_is_one_for_all_views_and_steps(perpneg):
    streams, memory = RandomStreams(0), NoiseMemory()
    first = drawn("fixed", streams, memory, perpneg=perpneg)
    assert torch.equal(first[0], first[1]) and torch.equal(first, drawn("fixed", streams, memory, perpneg=perpneg))
    assert first.std() > 0.5 and list(memory.state_dict()) == ["fixed", "offset"]


@pytest.mark.parametrize("source", ["fixed", "camera"])
def test_it_is_restored_with_the_run(source):
    cameras, memory, restored = Cameras.at([0.0, 90.0, 200.0]), NoiseMemory(), NoiseMemory()
    before = drawn(source, RandomStreams(0), memory, cameras)
    restored.load_state_dict(memory.state_dict())
    assert torch.equal(before, drawn(source, RandomStreams(99), restored, cameras))
    assert not torch.equal(before, drawn(source, RandomStreams(99), NoiseMemory(), cameras))


@pytest.mark.parametrize("source", ["fresh", "fixed", "camera"])
def test_every_source_draws_noise_with_one_offset_of_a_tenth(source):
    """Over 400 runs a channel's mean has deviation 0.1 and each value variance 1.01, to five standard errors; the views
    of a step share the offset.
    """
    cameras, means, squares = Cameras.at([0.0, 90.0, 200.0], polar_deg=75.0), [], []
    for seed in range(400):
        noise = drawn(source, RandomStreams(seed, seed), NoiseMemory(), cameras, size=32)
        means.append(noise.mean((2, 3)))
        squares.append(noise[0].square().mean())
    means = torch.stack(means)  # [400, 3 views, 3 channels]
    within = 1 / 32  # of a mean of 32 x 32 values without an offset
    expected = (0.1**2 + within**2) ** 0.5
    assert float(means[:, 0].std()) == pytest.approx(expected, rel=5 / (2 * 1200) ** 0.5)
    assert float(torch.stack(squares).mean()) == pytest.approx(1.01, abs=5 * (2 / 32**2 / 1200 + 2e-4 / 1200) ** 0.5)
    assert float((means[:, 0] - means[:, 2]).std()) < 1.2 * 2**0.5 * within


def test_a_run_begun_with_the_offset_within_its_noise_continues_with_it():
    """As checkpoints of earlier versions have it."""
    memory, noise = NoiseMemory(), torch.ones(1, 3, 4, 4)
    memory.load_state_dict({"fixed": noise})
    assert torch.equal(drawn("fixed", RandomStreams(0), memory), noise.expand(3, -1, -1, -1))


def test_another_size_is_refused():
    memory = NoiseMemory()
    drawn("fixed", RandomStreams(0), memory)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4, 4\) but this step needs \(1, 3, 8, 8\); keep noise_source"):
        drawn("fixed", RandomStreams(0), memory, size=8)
    with pytest.raises(ValueError, match="noise_source camera needs the cameras"):
        drawn("camera", RandomStreams(0), NoiseMemory())


def test_noise_of_a_camera_is_normal_and_follows_it():
    """Equal cameras, equal noise; the correlation falls with the angle, and is gone on the other side."""
    anchors = Draws(0, torch.float64).normal(64, 4, 100, 100)
    azimuths = [0.0, 0.0, 5.0, 20.0, 60.0, 180.0]
    noise = noise_of_cameras(anchors, Cameras.at(azimuths)).flatten(1)
    assert torch.equal(noise[0], noise[1])
    assert (noise.mean(1).abs() < 5 / 200).all() and (noise.std(1) - 1).abs().max() < 5 / 280  # 5 standard errors
    correlations = [float(torch.corrcoef(noise[[0, k]])[0, 1]) for k in range(1, 6)]
    assert correlations == sorted(correlations, reverse=True)
    assert correlations[1] > 0.95 and abs(correlations[-1]) < 0.05


@pytest.mark.parametrize("azimuth", [0.0, 35.0, -100.0, 180.0])
def test_a_mirrored_camera_sees_the_mirror_image(azimuth):
    """Of points and of their mirror images, to whatever side and however turned the camera is."""
    draws = Draws(1, torch.float64)
    cameras, points = Cameras.at([azimuth], polar_deg=70.0, radius=2.0), draws.normal(50, 3) / 10
    turn = torch.linalg.qr(draws.normal(3, 3)).Q
    cameras.to_world[0, :3, :3] = cameras.to_world[0, :3, :3] @ (turn * turn.det())  # as jitter turns it, and more
    kept, mirrored = (cameras.mirrored(torch.tensor([flip])) for flip in (False, True))

    def seen(camera, points):  # right, down and depth of each point
        matrix = camera.to_world[0]
        return (points - matrix[:3, 3]) @ matrix[:3, :3]

    left_right = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(seen(mirrored, points * left_right), seen(cameras, points) * left_right)
    assert torch.linalg.det(mirrored.to_world[0, :3, :3]) > 0
    torch.testing.assert_close(kept.to_world, cameras.to_world, rtol=0, atol=0)
    assert float(mirrored.azimuth_deg) == -azimuth
    assert spherical(mirrored.to_world[0, :3, 3]) == pytest.approx((2.0, 70.0, -azimuth % 360), abs=1e-9)


def test_cameras_on_a_circle_look_at_its_middle():
    cameras = Cameras.at([0.0, 90.0, -30.0], polar_deg=60.0, radius=3.0)
    for azimuth, matrix in zip((0.0, 90.0, 330.0), cameras.to_world):
        assert spherical(matrix[:3, 3]) == pytest.approx((3.0, 60.0, azimuth), abs=1e-9)
        torch.testing.assert_close(matrix[:3, :3].T @ matrix[:3, :3], torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(matrix[:3, 3] + 3.0 * matrix[:3, 2], torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
        assert torch.linalg.det(matrix[:3, :3]) > 0 and matrix[2, 1] < 0  # image down points down
