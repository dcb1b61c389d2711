# SPDX-License-Identifier: Apache-2.0
"""Threads and processes: the same bits from any number of threads, from several callers at once, and after a fork."""

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from raster_scenes import Scene, random_scene, run_extension, settings_of

from diff_gaussian_rasterization import GaussianRasterizer
from tests.patience import until


@pytest.fixture
def threads():
    """Sets the thread count and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def large_scene(seed: int) -> Scene:
    """Large enough that every stage starts three threads."""
    return random_scene(seed, n=50000, height=150, width=170, sh_degree=1, scale=0.008)


def image_digest(scene: Scene) -> str:
    """Digest of the images, computed without a parallel torch operation."""
    with torch.no_grad():
        color, _, depth_alpha = GaussianRasterizer(settings_of(scene.view))(
            means2D=scene.inputs["means3D"], **scene.inputs
        )
    return hashlib.sha256(color.numpy().tobytes() + depth_alpha.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("n_threads", [2, 3])
def test_thread_count_changes_no_bit(threads, n_threads):
    scene = large_scene(2)
    threads(1)
    one = run_extension(scene)
    threads(n_threads)
    many = run_extension(scene)
    assert torch.equal(one.images, many.images)
    assert torch.equal(one.radii, many.radii)
    for name, gradient in one.gradients.items():
        assert torch.equal(gradient, many.gradients[name]), name


def test_callers_in_several_threads_do_not_disturb_each_other(threads):
    threads(3)
    scenes = [large_scene(seed) for seed in range(3)]
    expected = [image_digest(scene) for scene in scenes]
    with ThreadPoolExecutor(3) as callers:
        results = list(callers.map(image_digest, scenes * 3))
    assert results == expected * 3


def test_a_forked_child_renders_too(threads):
    """The child has none of the parent's threads and must not wait for them."""
    threads(3)
    scene = large_scene(2)
    expected = image_digest(scene)
    child = os.fork()
    if child == 0:
        os._exit(0 if image_digest(scene) == expected else 1)

    def ended() -> tuple[int, int] | None:
        pid, status = os.waitpid(child, os.WNOHANG)
        return (pid, status) if pid else None

    try:
        _, status = until(ended, "the forked child waits for threads that it does not have")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert os.waitstatus_to_exitcode(status) == 0
