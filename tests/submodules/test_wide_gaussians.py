# SPDX-License-Identifier: Apache-2.0
"""Gaussians of many tiles: their slots are added up by a tree of at most 64 sums a thread, in one order for ever."""

import ctypes

import numpy as np
import pytest
import shim_build
import torch
from conftest import compiled
from raster_scenes import Scene, random_scene, run_extension, run_reference, run_views

MOMENTS, MOST = 10, 64
COUNTS = [0, 1, 2, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097, 4161, 64 * 64 * 3 + 5, 262145]


@pytest.fixture(scope="module")
def slot_sums():
    return shim_build.steer(ctypes.CDLL(str(compiled(shim_build.SLOT_SUMS))))


def summed_by_kernels(library, counts: list[int], sums: np.ndarray, any_slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [N,10] and whether there is one [N], by the CUDA kernels."""
    n, out = len(counts), np.full((len(counts), MOMENTS), np.nan, np.float32)
    arrays = [np.array(counts, np.uint32), sums.copy(), any_slot.copy(), out, np.zeros(n, np.uint8)]
    library.sum_slots_of(n, *[ctypes.c_void_p(x.ctypes.data) for x in arrays])
    return out, arrays[-1].astype(bool)


def summed_in_order(sums: np.ndarray) -> np.ndarray:
    """Float32 sums one after the other."""
    total = np.zeros(MOMENTS, np.float32)
    for row in sums:
        total += row
    return total


def summed_by_tree(sums: np.ndarray, any_slot: np.ndarray) -> np.ndarray:
    """The reference: neighbours in groups of 64, each group in order, until one is left."""
    while True:
        groups = [(sums[k : k + MOST], any_slot[k : k + MOST]) for k in range(0, max(len(sums), 1), MOST)]
        sums = np.stack([summed_in_order(s[a != 0]) for s, a in groups])
        any_slot = np.array([a.any() for _, a in groups])
        if len(sums) == 1:
            return sums[0]


@pytest.mark.parametrize("share", [1.0, 0.3, 0.001])
def test_slots_are_added_by_a_tree_of_64(slot_sums, share):
    """To the bit, in every order of blocks and threads, whichever slots were written; unwritten ones hold NaN."""
    rng = np.random.default_rng(5)
    total = sum(COUNTS)
    any_slot = (rng.random(total) < share).astype(np.uint8)
    sums = rng.standard_normal((total, MOMENTS)).astype(np.float32)
    sums[any_slot == 0] = np.nan
    ends = np.cumsum(COUNTS)
    parts = [(sums[e - n : e], any_slot[e - n : e]) for n, e in zip(COUNTS, ends, strict=True)]
    expected = np.stack([summed_by_tree(*part) for part in parts])
    for seed in (0, 1, 2):
        with shim_build.shuffled(slot_sums, seed):
            given, any_given = summed_by_kernels(slot_sums, COUNTS, sums, any_slot)
        np.testing.assert_array_equal(given, expected)
        np.testing.assert_array_equal(any_given, [bool(a.any()) for _, a in parts])


def wide_scene(seed: int = 90) -> Scene:
    """An image of 99 tiles, on no square grid; some Gaussians reach all, 65 or more, or a few of them."""
    scene = random_scene(seed, n=12, height=170, width=140, sh_degree=1, opacity=(0.05, 0.3))
    scene.inputs["scales"][:6] *= 40
    return scene


def test_gradients_of_wide_gaussians_match_the_reference(each_backend):
    """Measured over seeds 90 to 99: 5e-6 of the largest with either backend; margin 4."""
    scene = wide_scene()
    solid = run_reference(scene)
    scene.weights = scene.weights * ~solid.fragile
    expected, given = run_reference(scene), run_extension(scene)
    for name, gradient in given.gradients.items():
        want = expected.gradients[name]
        assert (gradient - want).abs().max() < 2e-5 * want.abs().max(), name


def test_wide_gaussians_launch_one_kernel_more_and_repeat_bit_for_bit(cuda_kernels):
    scene = wide_scene()
    before = cuda_kernels.cuda_shim_launches()
    natural = run_extension(scene)
    assert cuda_kernels.cuda_shim_launches() - before == 10
    with shim_build.shuffled(cuda_kernels, 3):
        shuffled = run_extension(scene)
    run_views([wide_scene(91), scene])  # its pairs may not fit yet
    together = run_views([wide_scene(91), scene])[1]
    for result in (shuffled, together):
        assert torch.equal(result.images, natural.images)
        assert all(torch.equal(g, natural.gradients[name]) for name, g in result.gradients.items())
